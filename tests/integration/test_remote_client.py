"""The client of the contexts, with a server as a program, on each event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio.abc import SocketStream

from kernelproto import (
    ExecuteResult,
    ExecutionTimeout,
    KernelRestarted,
    LocalProtocolError,
    Stream,
)
from kernelproto.remote import (
    ContextNotFound,
    RemoteServer,
    RemoteServerError,
    ServerUnreachable,
    connect_server,
    execution,
)
from tests.integration.test_server_users import ON_ASYNCIO, Server, serving

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
WORK = "import time\nprint('working', flush=True)\ntime.sleep(1000)"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(ON_ASYNCIO) as server:
        yield server


@asynccontextmanager
async def connected(server: Server, user: str = "ada") -> AsyncGenerator[RemoteServer]:
    with anyio.fail_after(GUARD_SECONDS):
        async with connect_server(str(server.url), headers={"X-Forwarded-User": user}) as remote:
            yield remote


async def test_execution_is_that_of_a_kernel(server: Server) -> None:
    async with connected(server) as remote, remote.run_context(language="python") as context:
        result = await context.execute("import sys\nprint('hi', file=sys.stderr)\n6 * 7")
        assert (result.text, result.stderr, result.status) == ("42", "hi\n", "ok")
        assert result.execution_count == 1

        outputs = [output async for output in context.execute("print(1)\n2")]
        assert [type(output) for output in outputs] == [Stream, ExecuteResult]

        async with context.execute("1 / 0") as running:
            assert running.state in ("running", "done")
            failed = await running
        assert failed.error is not None
        assert failed.error.ename == "ZeroDivisionError"
        assert len(failed.error.traceback) > 1

        shown = await context.execute(
            "h = display('old', display_id='d')\nh.update('new')\nfrom IPython.display import HTML"
            "\nHTML('<b>')"
        )
        assert shown.outputs[0].data == {"text/plain": "'new'"}
        assert shown.data["text/html"] == "<b>"


async def test_contexts_of_two_users(server: Server) -> None:
    async with (
        connected(server) as ada,
        connected(server, "bob") as bob,
        ada.run_context() as context,
        bob.run_context(),
    ):
        assert [model.id for model in await ada.contexts()] == [context.id]
        assert (await context.model()).language == "python"
        theirs = bob.context(context.id)
        for call in (theirs.model, theirs.interrupt, theirs.restart, theirs.end):
            with pytest.raises(ContextNotFound, match=f"there is no context {context.id}"):
                await call()
        with pytest.raises(ContextNotFound):
            await theirs.execute("1")
        with pytest.raises(RemoteServerError, match="at most 1 kernel") as caught:
            await ada.start_context()
        assert caught.value.status == 429


async def test_cancellation_interrupts(server: Server) -> None:
    async with connected(server) as remote, remote.run_context() as context:
        with anyio.CancelScope() as scope:
            async for _ in context.execute(WORK):
                scope.cancel()
        assert scope.cancelled_caught
        assert (await context.execute("6 * 7")).text == "42"

        going_on = context.execute("import time\ntime.sleep(0.5)\nx = 1", interrupt_on_cancel=False)
        with anyio.move_on_after(0.1):
            await going_on
        assert (await context.execute("x")).text == "1"


async def test_interrupts_one_execution(server: Server) -> None:
    async with connected(server) as remote, remote.run_context() as context:
        async with context.execute(WORK) as first, context.execute("1") as second:
            await first.__anext__()
            await second.interrupt()
            await first.interrupt()
            assert (await first).error is not None
            await second
        async with context.execute(WORK) as running:
            await running.__anext__()
            await context.interrupt()
            assert (await running).status == "error"


async def test_timeout_death_and_restart(server: Server) -> None:
    async with connected(server) as remote, remote.run_context() as context:
        with pytest.raises(ExecutionTimeout) as caught:
            await context.execute(WORK, timeout=0.2)
        assert caught.value.seconds == 0.2
        assert caught.value.ename == "KeyboardInterrupt"
        assert caught.value.result.stdout == "working\n"
        with pytest.raises(KernelRestarted):
            await context.execute("import os\nos._exit(1)")
        running = context.execute(WORK)
        await running.__anext__()
        assert (await context.restart()).id == context.id
        with pytest.raises(KernelRestarted):
            await running
        with pytest.raises(LocalProtocolError):
            context.execute("1", timeout=-1)


class Proxy:
    """Passes bytes on to a server, until it cuts the connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: list[anyio.CancelScope] = []
        self._ended = False
        self.accepted = 0

    async def serve(self, client: SocketStream) -> None:
        self.accepted += 1
        if self._ended:
            await client.aclose()
            return
        async with client, await anyio.connect_tcp("127.0.0.1", self._port) as server:
            with anyio.CancelScope() as scope:
                self._connections.append(scope)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._copy, client, server)
                    tasks.start_soon(self._copy, server, client)

    async def _copy(self, source: SocketStream, target: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for data in source:
                await target.send(data)
            await target.send_eof()

    def cut(self) -> None:
        for scope in self._connections:
            scope.cancel()

    def end(self) -> None:
        self._ended = True
        self.cut()


@asynccontextmanager
async def proxied(server: Server) -> AsyncGenerator[tuple[Proxy, str]]:
    proxy = Proxy(server.url.port or 0)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.serve)
        yield proxy, f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


async def test_lost_connection_loses_and_repeats_nothing(server: Server) -> None:
    code = "import time\nfor n in range(50):\n    print(n, flush=True)\n    time.sleep(0.005)"
    headers = {"X-Forwarded-User": "ada"}
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            proxied(server) as (proxy, url),
            connect_server(url, headers=headers) as remote,
            remote.run_context() as context,
        ):
            lines = ""
            async for output in (running := context.execute(code)):
                assert isinstance(output, Stream)
                if len(lines) < 20 <= len(lines) + len(output.text):
                    proxy.cut()
                lines += output.text
            assert lines.split() == [str(number) for number in range(50)]
            result = await running
            assert (result.status, result.execution_count) == ("ok", 1)
            assert result.outputs_complete
            assert proxy.accepted > 1


async def test_server_that_is_gone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "RECONNECT_SECONDS", 0.01)
    headers = {"X-Forwarded-User": "ada"}
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            proxied(server) as (proxy, url),
            connected(server) as direct,
            direct.run_context() as context,
            connect_server(url, headers=headers) as far,
        ):
            running = far.context(context.id).execute(WORK)
            await running.__anext__()
            proxy.end()
            with pytest.raises(ServerUnreachable, match=r"the outcome .* is unknown"):
                await running
        async with connect_server("http://127.0.0.1:1") as nowhere:
            with pytest.raises(ServerUnreachable, match="cannot be reached"):
                await nowhere.contexts()
            with pytest.raises(ServerUnreachable):
                await nowhere.context("x").execute("1")
