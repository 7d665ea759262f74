"""The client: ``connect_server``, and the contexts of the server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote

import anyio
import httpx
import msgspec
from anyio.abc import TaskGroup

from kernelproto.client.client import OUTPUT_LIMIT
from kernelproto.client.execution import Execution, ExecutionOptions
from kernelproto.client.page import Displays
from kernelproto.client.stopping import OnTimeout
from kernelproto.concurrency.handshake import close_cancelled_handshake
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.confined_folder import Refused, split_name
from kernelproto.exceptions import LocalProtocolError
from kernelproto.remote.exceptions import RemoteServerError
from kernelproto.remote.execution import ExecutionRequest
from kernelproto.remote.models import (
    ContextModel,
    ContextRequest,
    ExecuteRequest,
    FileList,
    LaunchRequest,
)
from kernelproto.remote.requests import START_TIMEOUT, TIMEOUT, Requests, decoded
from kernelproto.wire import content

# How long the end of a block waits for the server to end the context.
_ENDING_SECONDS = 10.0

_RANGE_NOT_SATISFIABLE = 416


class RemoteContext:
    """A context of a server: a kernel with variables.

    Attributes:
        id: the id.
    """

    def __init__(self, requests: Requests, tasks: TaskGroup, context_id: str) -> None:
        self.id = context_id
        self._requests = requests
        self._tasks = tasks
        self._path = f"/api/contexts/{context_id}"
        self._displays = Displays(OUTPUT_LIMIT)

    def execute(
        self,
        code: str,
        *,
        silent: bool = False,
        store_history: bool = True,
        stop_on_error: bool = False,
        timeout: float | None = None,
        on_timeout: OnTimeout = "raise",
        interrupt_on_cancel: bool = True,
    ) -> Execution:
        """Run code; the Execution is awaited, iterated or entered as that of a ``Kernel``.

        A lost connection is made again, and nothing runs twice. After 30 s without a connection the
        execution raises ServerUnreachable. The ``state`` is "running" as soon as the server has
        accepted the request, although earlier executions may still run.

        Args:
            code: the code, in the language of the context.
            silent: run the code without output, history or execution count.
            store_history: whether the code goes into the kernel's history.
            stop_on_error: whether an error makes the kernel abort the executions in its queue.
            timeout: the number of seconds that the code may run; then the code is interrupted, and
                the execution raises ExecutionTimeout.
            on_timeout: "restart" restarts the kernel if the code ignores the interrupt; "raise"
                raises KernelUnresponsive.
            interrupt_on_cancel: whether cancelling the waiting task interrupts the code. If so, the
                server also interrupts the code when the client is gone for 10 s.

        Raises:
            LocalProtocolError: *timeout* is negative.
        """
        if timeout is not None and not timeout >= 0:
            raise LocalProtocolError(f"timeout must be seconds, 0 or more, not {timeout!r}")
        body = ExecuteRequest(
            code=code,
            timeout=timeout,
            on_timeout=on_timeout,
            silent=silent,
            store_history=store_history,
            stop_on_error=stop_on_error,
            on_disconnect="interrupt" if interrupt_on_cancel else "continue",
        )
        execution = Execution(
            ExecutionRequest(self._requests, self._tasks, self.id, body, str(uuid.uuid4())),
            content.ExecuteRequest(
                code=code,
                silent=silent,
                store_history=store_history and not silent,
                allow_stdin=False,
                stop_on_error=stop_on_error,
            ),
            options=ExecutionOptions(interrupt_on_cancel=interrupt_on_cancel),
            output_limit=OUTPUT_LIMIT,
        )
        execution.share(self._displays)
        return execution

    async def model(self) -> ContextModel:
        """Return the description of the context, such as its state and working directory.

        Raises:
            RemoteServerError: as for all requests; ContextNotFound if the context has ended.
        """
        return decoded(await self._requests.send("GET", self._path), ContextModel)

    async def interrupt(self) -> None:
        """Interrupt the code that runs; raises as ``model`` does."""
        await self._requests.send("POST", f"{self._path}/interrupt")

    async def restart(self) -> ContextModel:
        """Replace the process of the kernel: the variables are lost. Raises as ``model`` does."""
        path = f"{self._path}/restart"
        return decoded(await self._requests.send("POST", path, phases=START_TIMEOUT), ContextModel)

    async def files(self) -> FileList:
        """Return the files in the working directory; raises as ``model`` does."""
        return decoded(await self._requests.send("GET", f"{self._path}/files"), FileList)

    async def upload(self, name: str, data: bytes) -> None:
        """Write a file in the working directory; a file of this name is replaced.

        Args:
            name: the path, relative to the working directory; missing folders are made.
            data: the content, at most 64 MiB.

        Raises:
            LocalProtocolError: the name is not allowed.
            RemoteServerError: as ``model`` raises; 400, the file cannot be written; 413, the file
                is too large, or there are too many.
        """
        await self._requests.send("PUT", self._file(name), data)

    async def download(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Return a file in the working directory, or a part of a file.

        Args:
            name: the path, relative to the working directory.
            offset: the begin of the part; at the end of the file or beyond, the part is empty.
            length: the length of the part, which may be shorter; None means the rest.

        Raises:
            LocalProtocolError: the name is not allowed.
            RemoteServerError: as ``model`` raises; 400, the file cannot be read. ContextNotFound
                also means that there is no such file.
        """
        if not offset and length is None:
            return await self._requests.send("GET", self._file(name))
        if length == 0:
            return b""
        last = "" if length is None else offset + length - 1
        headers = {"Range": f"bytes={offset}-{last}"}
        try:
            return await self._requests.send("GET", self._file(name), headers=headers)
        except RemoteServerError as error:
            if error.status == _RANGE_NOT_SATISFIABLE:
                return b""
            raise

    async def remove_file(self, name: str) -> None:
        """Remove a file in the working directory; raises as ``download`` does."""
        await self._requests.send("DELETE", self._file(name))

    def _file(self, name: str) -> str:
        try:
            split_name(name)
        except Refused as refusal:
            raise LocalProtocolError(str(refusal)) from None
        return f"{self._path}/files/{quote(name, safe='')}"

    async def end(self) -> None:
        """End the context; raises as ``model`` does."""
        await self._requests.send("DELETE", self._path, phases=START_TIMEOUT)


class RemoteServer:
    """A connection to a server, from ``connect_server``."""

    def __init__(self, http: httpx.AsyncClient, tasks: TaskGroup) -> None:
        self._requests = Requests(http)
        self._tasks = tasks

    async def contexts(self) -> list[ContextModel]:
        """Return the descriptions of the user's contexts.

        Raises:
            RemoteServerError: the server has refused the request, or cannot be reached.
        """
        return decoded(await self._requests.send("GET", "/api/contexts"), list[ContextModel])

    def context(self, context_id: str) -> RemoteContext:
        """Return a context that exists; nothing is sent."""
        return RemoteContext(self._requests, self._tasks, context_id)

    async def start_context(
        self,
        *,
        language: str | None = None,
        kernel: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        sandbox: Mapping[str, object] | None = None,
    ) -> RemoteContext:
        """Start a context, which the server ends after a long idle time.

        Args:
            language: a programming language.
            kernel: a kernel type, instead of a language.
            cwd: the working directory, relative to the root folder of the server.
            env: environment variables, which the server must allow.
            sandbox: settings of a sandbox; none may be weaker than that of the server.

        Raises:
            RemoteServerError: the server has refused the request, or cannot be reached.
        """
        request = ContextRequest(
            language=language,
            kernel=kernel,
            cwd=cwd,
            env_vars=None if env is None else dict(env),
            launch_params=None if sandbox is None else LaunchRequest(sandbox=dict(sandbox)),
        )
        body = msgspec.json.encode(request)
        data = await self._requests.send("POST", "/api/contexts", body, phases=START_TIMEOUT)
        return self.context(decoded(data, ContextModel).id)

    @asynccontextmanager
    async def run_context(
        self,
        *,
        language: str | None = None,
        kernel: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        sandbox: Mapping[str, object] | None = None,
    ) -> AsyncGenerator[RemoteContext]:
        """Start a context for the block; the end of the block ends the context.

        If the server cannot be reached at the end of the block, the server ends the context after a
        long idle time. Arguments and exceptions are those of ``start_context``.
        """
        context = await self.start_context(
            language=language, kernel=kernel, cwd=cwd, env=env, sandbox=sandbox
        )
        try:
            yield context
        finally:
            with anyio.move_on_after(_ENDING_SECONDS, shield=True), suppress(RemoteServerError):
                await context.end()


@asynccontextmanager
async def connect_server(
    url: str,
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncGenerator[RemoteServer]:
    """Connect to a server of kernelproto for the block.

    Executions that have not ended at the end of the block raise ClientClosed; the server interrupts
    their code, unless they have ``interrupt_on_cancel=False``.

    Args:
        url: the URL of the server, including a ``base_url``.
        token: the token of the user.
        headers: further headers of each request.
        transport: the transport of httpx, for example for a unix socket.
    """
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with (
        httpx.AsyncClient(
            base_url=url,
            headers=sent,
            timeout=TIMEOUT,
            limits=limits,
            transport=transport,
            event_hooks={"request": [close_cancelled_handshake]},
        ) as http,
        background_tasks() as tasks,
    ):
        yield RemoteServer(http, tasks)
