from __future__ import annotations

import anyio
import anyio.lowlevel
import msgspec
import pytest

from kernelproto import DisplayData, ErrorOutput, ExecuteResult, KernelDied, Stream
from kernelproto.client import open_client
from kernelproto.testing import CodeError, Exchange, FakeKernel
from kernelproto.wire import Codec, content
from kernelproto.wire.content import ExecuteRequest, InputReply, KernelInfoReply, ShutdownRequest

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


async def test_messages_of_an_execution_are_in_order() -> None:
    seen = []
    async with FakeKernel() as fake:
        fake.on_execute(
            "all",
            stdout="out",
            stderr="err",
            display={"image/png": "..."},
            result={"text/plain": "1", "text/html": "<b>1</b>"},
            error=("ValueError", "no"),
        )
        async with (
            fake.connect() as client,
            fake.open_channels(
                fake.connection_info,
                lambda channel, frames: seen.append((channel, frames)),
                identity=b"another",
            ),
        ):
            result = await client.execute("all")
    assert result.outputs == [
        Stream("stdout", "out"),
        Stream("stderr", "err"),
        DisplayData({"image/png": "..."}),
        ExecuteResult({"text/plain": "1", "text/html": "<b>1</b>"}, execution_count=1),
        ErrorOutput("ValueError", "no", ["ValueError: no"]),
    ]
    assert (result.status, result.execution_count) == ("error", 1)
    codec = Codec(signer=fake.connection_info.signer())
    types = [codec.decode(frames).msg_type for channel, frames in seen if channel == "iopub"]
    assert types[:3] == ["iopub_welcome", "status", "execute_input"]
    assert types[3:] == ["stream"] * 2 + ["display_data", "execute_result", "error", "status"]


async def test_code_without_a_script_has_no_outputs() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        result = await client.execute("pass")
    assert (result.status, result.outputs) == ("ok", [])


async def test_latest_script_is_used() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute(lambda code: code.startswith("a"), result="first")
        fake.on_execute("ab", result="second")
        assert [(await client.execute(code)).text for code in ("a", "ab", "b")] == [
            "first",
            "second",
            None,
        ]


async def test_handler_sends_any_message() -> None:
    async def talk(exchange: Exchange) -> None:
        assert exchange.code == "talk"
        exchange.stream("wrong")
        exchange.clear(wait=True)
        exchange.display("old", display_id="it", metadata={"a": 1})
        exchange.display("new", display_id="it", update=True)
        exchange.result("42", metadata={"b": 2})
        exchange.publish({"spoken": True}, "speech", buffers=[b"\0"])
        exchange.reply(content.ExecuteReply(user_expressions={"x": 1}))

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("talk", talk)
        result = await client.execute("talk")
    shown, value = result.outputs
    assert (shown.data, shown.display_id) == ({"text/plain": "new"}, "it")
    assert (value.data, value.metadata) == ({"text/plain": "42"}, {"b": 2})
    assert result.user_expressions == {"x": 1}


async def test_mapping_needs_a_msg_type() -> None:
    async with FakeKernel() as fake:
        with pytest.raises(TypeError, match="cannot be derived from a dict"):
            fake.publish({"spoken": True})


async def test_code_error_of_a_handler_is_an_error_reply() -> None:
    async def fail(exchange: Exchange) -> None:
        raise CodeError("ZeroDivisionError", "division by zero")

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("1 / 0", fail)
        fake.on("inspect_request", fail)
        result = await client.execute("1 / 0")
        assert result.error == result.outputs[0]
        assert result.error.ename == "ZeroDivisionError"
        assert (await client.inspect("x")).evalue == "division by zero"


async def test_other_exception_of_a_handler_is_raised_by_the_block() -> None:
    async def fail(exchange: Exchange) -> None:
        raise LookupError("a mistake in the test")

    async def program() -> None:
        async with FakeKernel() as fake, fake.connect() as client:
            fake.on_execute("x", fail)
            await client.execute("x")

    with pytest.raises(LookupError, match="a mistake in the test"):
        await program()


async def test_input() -> None:
    async def greet(exchange: Exchange) -> None:
        name = await exchange.input("who? ")
        word = await exchange.input("password? ", password=True)
        exchange.stream(f"{name} {word}")

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("greet", greet)
        asked = []

        def answer(question) -> str:
            asked.append((question.prompt, question.password))
            return f"answer {len(asked)}"

        assert (await client.execute("greet", on_input=answer)).stdout == "answer 1 answer 2"
        assert asked == [("who? ", False), ("password? ", True)]
        assert [reply.value for reply in fake.contents(InputReply)] == ["answer 1", "answer 2"]
        assert (await client.execute("greet")).error.ename == "StdinNotImplementedError"


async def test_late_input_reply_is_ignored() -> None:
    async def ask(exchange: Exchange) -> None:
        exchange.stream(await exchange.input())

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("ask", ask)
        questions = []

        async def hesitate(question) -> str:
            questions.append(question)
            if len(questions) == 1:
                fake.interrupt()
                await anyio.sleep_forever()
            return "second"

        first = await client.execute("ask", on_input=hesitate)
        assert first.error.ename == "KeyboardInterrupt"
        assert (await client.execute("ask", on_input=hesitate)).stdout == "second"


async def test_default_replies() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        await client.execute("a = 1")
        await client.execute("silent", silent=True)
        await client.execute("forgotten", store_history=False)
        await client.execute("b = 2")
        assert (await client.history(n=1)).history == [(1, 2, "b = 2")]
        assert (await client.history(output=True)).history[0] == (1, 1, ["a = 1", None])
        assert (await client.complete("abc", 2)).cursor_end == 2
        assert not (await client.inspect("a")).found
        assert (await client.is_complete("a")).status == "complete"
        assert (await client.comm_info()).comms == {}
        assert (await client.interrupt()).status == "ok"
        assert fake.history == ["a = 1", "b = 2"]


async def test_custom_replies() -> None:
    async def inspect(exchange: Exchange) -> None:
        exchange.reply(found=True, data={"text/plain": exchange.content.code})

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on("complete_request", content.CompleteReply(matches=["print"]))
        fake.on("inspect_request", inspect)
        fake.on("dance_request", {"status": "ok", "danced": True})
        assert (await client.complete("pri")).matches == ["print"]
        assert (await client.inspect("x")).data == {"text/plain": "x"}
        assert (await client.request("dance_request", {}, "control")).content["danced"]


async def test_unknown_request_gets_no_reply() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        idle = fake.faults.hold("idle")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.request, "dance_request", {})
            assert (await idle.wait()).parent_header.msg_type == "dance_request"
            idle.remove()
            assert (await client.kernel_info()).status == "ok"
            tasks.cancel_scope.cancel()


async def test_interrupt_ends_running_code() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("work", be_endless)
        async with client.execute("work") as execution:
            assert await anext(execution) == Stream("stdout", "begun")
            assert client.busy
            await client.interrupt()
            result = await execution
        assert (result.status, result.error.ename) == ("error", "KeyboardInterrupt")
        assert (await client.execute("more")).status == "ok"


@pytest.mark.parametrize(("stop_on_error", "status"), [(True, "aborted"), (False, "ok")])
async def test_executions_queued_behind_an_error_are_aborted(stop_on_error, status) -> None:
    statuses = {}

    async def wait_for(execution) -> None:
        statuses[execution.request.code] = (await execution).status

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("work", be_endless)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for, client.execute("work", stop_on_error=stop_on_error))
            await fake.wait_for("execute_request")
            tasks.start_soon(wait_for, client.execute("next"))
            await fake.wait_for("execute_request", count=2)
            await client.interrupt()
        await wait_for(client.execute("later"))
    assert statuses == {"work": "error", "next": status, "later": "ok"}


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


async def test_shutdown_request_ends_the_kernel() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        assert (await client.shutdown(restart=True)).restart
        assert await fake.wait() == 0
        with pytest.raises(KernelDied, match="exit status 0"):
            await client.kernel_info()


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
