"""Clients of a kernel that somebody else runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest

from kernelproto import ClientClosed, KernelClient, connect_kernel, run_kernel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


@asynccontextmanager
async def connected(connection, *, clients: int) -> AsyncIterator[list[KernelClient]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect_kernel(connection)) for _ in range(clients)]


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_clients_share_a_kernel_but_not_their_outputs(transport) -> None:
    """Only the first who subscribes to everything is welcomed by ipykernel; all must get ready."""
    async with run_kernel("pyimport/kernel", transport=transport) as kernel:
        await kernel.execute("x = 6")
        async with connected(kernel.manager.connection_file, clients=3) as clients:
            results = {}

            async def ask(number: int) -> None:
                result = await clients[number].execute(f"print({number}); x * {number}")
                results[number] = (result.stdout, result.text)

            async with anyio.create_task_group() as tasks:
                for number in range(len(clients)):
                    tasks.start_soon(ask, number)
            assert results == {n: (f"{n}\n", str(6 * n)) for n in range(3)}
            assert all(not client.refused for client in clients)
        result = await kernel.execute("x")
        assert result.text == "6"


async def test_connecting_to_a_busy_kernel() -> None:
    """It answers on control alone."""
    code = "print('busy', flush=True)\nwhile True: pass"
    async with run_kernel("pyimport/kernel") as kernel, kernel.execute(code) as execution:
        await anext(execution)
        async with connect_kernel(kernel.connection_info) as client:
            assert client.busy
            await client.interrupt()
            with anyio.fail_after(GUARD_SECONDS):
                while client.busy:
                    await client.execute("1", stop_on_error=False)
        result = await execution
        assert result.error.ename == "KeyboardInterrupt"


async def test_client_that_comes_late_to_a_kernel_without_welcome() -> None:
    options = {"habits": "no-welcome"}
    async with (
        run_kernel("spec/scripted", launch_params=options) as kernel,
        connected(kernel.connection_info, clients=3) as clients,
    ):
        for client in clients:
            result = await client.execute("say('hello', parent)")
            assert result.stdout == "hello"


async def test_leaving_ends_the_client_alone() -> None:
    async with run_kernel("spec/scripted") as kernel:
        async with connect_kernel(kernel.connection_info) as client:
            await client.execute("pass")
            execution = client.execute("say('to nobody', parent)")
            async with execution:
                pass
        with pytest.raises(ClientClosed):
            await client.execute("pass")
        with pytest.raises(ClientClosed):
            await execution
        await kernel.execute("pass")
        assert await kernel.manager.is_alive()


async def test_leaving_a_kernel_that_has_ended() -> None:
    """Nobody watches the process of a foreign kernel, so who waits for it goes on waiting."""
    async with (
        run_kernel("spec/scripted") as kernel,
        connect_kernel(kernel.connection_info) as client,
    ):
        await kernel.shutdown()
        with anyio.move_on_after(0.1) as waiting:
            await client.execute("pass")
        assert waiting.cancelled_caught
