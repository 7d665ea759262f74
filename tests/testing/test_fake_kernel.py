from __future__ import annotations

import anyio
import anyio.lowlevel
import msgspec
import pytest

from kernelproto import KernelDied, Stream
from kernelproto.client import open_client
from kernelproto.testing import Exchange, FakeKernel
from kernelproto.wire.content import ExecuteRequest, KernelInfoReply, ShutdownRequest

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def be_endless(exchange: Exchange) -> None:
    exchange.stream("begun")
    await anyio.sleep_forever()


async def test_example_of_the_module() -> None:
    async with FakeKernel() as fake:
        fake.on_execute("6 * 7", result="42")
        async with fake.connect() as client:
            assert (await client.execute("6 * 7")).text == "42"


async def test_kernel_becomes_ready() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        info = await client.wait_for_ready()
        assert (info.implementation, info.language_info.name) == ("fake", "fake")
        assert await client.heartbeat() > 0
        assert client.refused == {}


async def test_kernel_info_and_arguments() -> None:
    info = KernelInfoReply(implementation="mine", supported_features=["debugger"])
    async with FakeKernel(kernel_info=info) as fake, fake.connect() as client:
        assert await client.kernel_info() == info


async def test_other_exception_of_a_handler_is_raised_by_the_block() -> None:
    async def fail(exchange: Exchange) -> None:
        raise LookupError("a mistake in the test")

    async def program() -> None:
        async with FakeKernel() as fake, fake.connect() as client:
            fake.on_execute("x", fail)
            await client.execute("x")

    with pytest.raises(LookupError, match="a mistake in the test"):
        await program()


async def test_each_client_gets_all_outputs_and_only_its_own_replies() -> None:
    async with FakeKernel() as fake, fake.connect() as one, fake.connect() as other:
        fake.on_execute("1", result="one")
        fake.on_execute("2", result="two")
        assert (await one.execute("1")).text == "one"
        assert (await other.execute("2")).text == "two"
        sessions = {message.header.session for _, message in fake.received}
    assert sessions == {one.session, other.session}


async def test_received_messages_are_recorded() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.deaf.add("control")
        await client.execute("a", silent=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.shutdown)
            await fake.wait_for("shutdown_request")
            tasks.cancel_scope.cancel()
    assert [channel for channel, _ in fake.received] == ["shell", "control"]
    assert [(request.code, request.silent) for request in fake.contents(ExecuteRequest)] == [
        ("a", True)
    ]
    assert fake.contents(ShutdownRequest) == [ShutdownRequest(restart=False)]
    assert fake.returncode == 0


async def test_message_signed_with_another_key_is_refused() -> None:
    async with FakeKernel() as fake:
        info = msgspec.structs.replace(fake.connection_info, key="another")
        async with (
            open_client(info, open_channels=fake.open_channels) as client,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(client.kernel_info)
            while not fake.refused:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert fake.refused == {"InvalidSignature": 1}
    assert fake.received == []


async def test_deaf_heartbeat_does_not_answer() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.deaf.add("hb")
        with anyio.move_on_after(0.05) as waiting:
            await client.heartbeat()
        assert waiting.cancelled_caught
        fake.deaf.clear()
        await client.heartbeat()


async def test_death_during_an_execution_fails_all_clients() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("work", be_endless)
        async with client.execute("work") as execution:
            await anext(execution)
            fake.die()
            with pytest.raises(KernelDied, match="SIGKILL"):
                await execution
        assert await fake.wait() == fake.returncode == -9
        fake.die(0)
        assert fake.returncode == -9
        with pytest.raises(KernelDied):
            await client.kernel_info()


async def test_dead_kernel_sends_no_message() -> None:
    async def die(exchange: Exchange) -> None:
        fake.die()
        exchange.stream("output after death")

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("die", die)
        execution = client.execute("die")
        with pytest.raises(KernelDied):
            await execution
        assert execution.outputs == []


async def test_client_of_a_dead_kernel_gets_no_reply() -> None:
    async with FakeKernel() as fake:
        fake.die(3)
        async with fake.connect() as client:
            with anyio.move_on_after(0.05) as waiting:
                await client.kernel_info()
            assert waiting.cancelled_caught
    assert fake.returncode == 3


async def test_unsolicited_messages() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        async with client.execute("x") as execution:
            await execution
            fake.publish(Stream("stdout", "late"), parent=fake.received[-1].message)
        fake.publish({"event": "stopped"}, "debug_event")
        fake.send_frames("iopub", [b"garbage"])
        assert execution.outputs == []
        assert client.refused == {"MalformedMessage": 1}


async def test_block_ends_the_kernel() -> None:
    async with FakeKernel() as fake:
        assert fake.returncode is None
    assert await fake.wait() == 0


async def test_exceptions_of_the_block_are_not_wrapped() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with FakeKernel() as fake, fake.connect():
            raise KeyError("mine")


async def test_block_can_be_cancelled() -> None:
    with anyio.CancelScope() as scope:
        async with FakeKernel() as fake, fake.connect() as client:
            fake.on_execute("work", be_endless)
            async with client.execute("work") as execution:
                await anext(execution)
                scope.cancel()
                await execution
    assert scope.cancelled_caught
    assert fake.returncode == 0
