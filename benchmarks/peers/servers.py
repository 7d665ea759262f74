"""Kernel servers, and one client for all of them: REST and a WebSocket with the v1 subprotocol."""

from __future__ import annotations

import itertools
import json
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import Any

import anyio
import httpx
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.exceptions import Skipped
from benchmarks.lab import Lab
from benchmarks.peers.jupyter import OUTPUTS
from benchmarks.peers.peer import Client, Streamed, since
from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing

_TOKEN = "benchmarks"
_STARTED = r"(http://127\.0\.0\.1:\d+)/"


class Server:
    """A server that runs until the lab closes.

    Args:
        name: shown in the tables.
        module: module of the program, for ``python -m``.
        arguments: arguments of the program.
        ipykernel: name of the server's ipykernel.
        package: the package that the program needs; None for ``module``.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        ipykernel: str,
        package: str | None = None,
    ) -> None:
        self.name = name
        self._module = module
        self._package = package or module
        self._arguments = arguments
        self.ipykernel = ipykernel

    @asynccontextmanager
    async def open(self, lab: Lab) -> AsyncGenerator[httpx.AsyncClient]:
        """Start the server unless it is running, and open a client of its REST API."""
        url, _ = self._started(lab)
        headers = {"Authorization": f"token {_TOKEN}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as api:
            yield api

    def pid(self, lab: Lab) -> int:
        """Return the process id of the server."""
        return self._started(lab)[1]

    @asynccontextmanager
    async def connected(
        self,
        api: httpx.AsyncClient,
        kernel: str,
        *,
        observers: int = 0,
        through: httpx.AsyncClient | None = None,
    ) -> AsyncGenerator[Client]:
        """Start a kernel of this type and open a WebSocket to it; leaving the block ends it.

        Args:
            api: the client of the server's REST API.
            kernel: the kernel type.
            observers: the number of other WebSockets to the kernel, whose messages are discarded.
            through: the client of the server to which the WebSocket leads, by default *api*.
        """
        path = await _post_kernel(api, kernel)
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            for number in range(observers):
                observer = await stack.enter_async_context(_socket(api, path, f"observer-{number}"))
                tasks.start_soon(_discard, observer)
            own = _socket(through or api, path, "benchmarks")
            yield _Client(await stack.enter_async_context(own))
        (await api.delete(path)).raise_for_status()

    @asynccontextmanager
    async def launch(self, lab: Lab) -> AsyncGenerator[ServedKernel]:
        """Start the server's ipykernel; leaving the block ends the kernel if it still runs."""
        async with self.open(lab) as api:
            path = await _post_kernel(api, self.ipykernel)
            async with _socket(api, path, "benchmarks") as socket:
                kernel = ServedKernel(_Client(socket), api, path)
                try:
                    yield kernel
                finally:
                    with anyio.CancelScope(shield=True):
                        await kernel.shutdown()

    def _started(self, lab: Lab) -> tuple[str, int]:
        if find_spec(self._package) is None:
            raise Skipped(f"{self._package} is not installed")
        return lab.server(_STARTED, sys.executable, "-m", self._module, *self._arguments)


class ServedKernel:
    """A kernel behind a server."""

    def __init__(self, client: Client, api: httpx.AsyncClient, path: str) -> None:
        self.client = client
        self._api = api
        self._path = path
        self._has_ended = False

    async def shutdown(self) -> None:
        """End the kernel, unless this was done."""
        if not self._has_ended:
            self._has_ended = True
            (await self._api.delete(self._path)).raise_for_status()


async def _post_kernel(api: httpx.AsyncClient, kernel: str) -> str:
    response = await api.post("/api/kernels", json={"name": kernel})
    return f"/api/kernels/{response.raise_for_status().json()['id']}"


def _socket(api: httpx.AsyncClient, path: str, session: str) -> connect:
    return connect(
        str(api.base_url.join(f"{path}/channels?session_id={session}")).replace("http", "ws", 1),
        additional_headers={"Authorization": api.headers["Authorization"]},
        subprotocols=[V1_SUBPROTOCOL],  # type: ignore[list-item]
        max_size=None,
        proxy=None,
    )


async def _discard(socket: ClientConnection) -> None:
    async for _ in socket:
        pass


class _Client:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._framing = client_framing(socket.subprotocol)
        self._count = itertools.count()

    async def execute(self, code: str) -> int:
        count, _, _ = await self._finish({await self._request(code)})
        return count

    async def stream(self, code: str) -> Streamed:
        count, _, began = await self._finish({await self._request(code)})
        return Streamed(count, since(began))

    async def buffers(self, code: str) -> Streamed:
        _, size, began = await self._finish({await self._request(code)})
        return Streamed(size, since(began))

    async def pipeline(self, code: str, count: int) -> None:
        await self._finish({await self._request(code) for _ in range(count)})

    async def _request(self, code: str) -> str:
        msg_id = f"{id(self)}-{next(self._count)}"
        header = Header(
            msg_id=msg_id, msg_type="execute_request", session="benchmarks", version="5.3"
        )
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        content |= {"user_expressions": {}, "stop_on_error": True}
        await self._socket.send(self._framing.encode("shell", Message.build(header, content)))
        return msg_id

    async def _finish(self, requests: set[str]) -> tuple[int, int, str | None]:
        began, count, size = None, 0, 0
        idle, replies = 0, 0
        while idle < len(requests) or replies < len(requests):
            channel, message = self._framing.decode(await self._socket.recv())
            parent = message.parent_header
            if parent is None or parent.msg_id not in requests:
                continue
            content: dict[str, Any] = json.loads(bytes(message.raw_content))
            if message.msg_type in OUTPUTS:
                count += 1
                began = began or content.get("text") or content["data"].get("text/plain")
                size += sum(map(len, message.buffers))
            elif channel == "shell":
                replies += 1
            elif content.get("execution_state") == "idle":
                idle += 1
        return count, size, began


def _kernelproto(kernel: str, name: str) -> Server:
    arguments = ["--port", "0", "--token", _TOKEN, "--max-per-user", "10"]
    return Server(name, "kernelproto.server", [*arguments, "--kernel", kernel], kernel)


def node(name: str, registry: str) -> Server:
    """Return a server that shares a registry with others."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    arguments = ["--port", port, "--token", _TOKEN, "--registry", registry]
    arguments += ["--node-url", f"http://127.0.0.1:{port}", "--max-per-user", "10"]
    return Server(name, "kernelproto.server", arguments, "pyimport/kernel")


OURS = _kernelproto("pyimport/kernel", "kernelproto server")
FORKED = _kernelproto("fork/kernel", "kernelproto server, forked")


def _jupyter_server(
    name: str, *arguments: str, extension: bool = False, module: str = "jupyter_server"
) -> Server:
    common = [
        *("--port=0", f"--IdentityProvider.token={_TOKEN}", "--no-browser", "--allow-root"),
        # The limit would drop outputs of a flood.
        "--ZMQChannelsWebsocketConnection.limit_rate=False",
        # Otherwise the extension of kernelproto would run the kernels of each.
        f"--ServerApp.jpserver_extensions=kernelproto.jupyter.server={extension}",
    ]
    return Server(name, module, [*common, *arguments], "python3", package="jupyter_server")


JUPYTER = _jupyter_server("jupyter_server")
WITHOUT_DELAY = _jupyter_server(
    "jupyter_server, TCP_NODELAY", module="benchmarks.peers.jupyter_server_nodelay"
)
PROVISIONED = _jupyter_server(
    "jupyter_server, provisioner kernelproto",
    "--KernelProvisionerFactory.default_provisioner_name=kernelproto",
)
IN_PROCESS = _jupyter_server("jupyter_server, extension kernelproto", extension=True)
