from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from kernelproto import DisplayData, ErrorOutput, ExecuteResult, KernelDied, Stream
from kernelproto.testing import Exchange, FakeKernel
from kernelproto.wire import Codec, content

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def be_endless(exchange: Exchange) -> None:
    exchange.stream("begun")
    await anyio.sleep_forever()


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


async def test_shutdown_request_ends_the_kernel() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        assert (await client.shutdown(restart=True)).restart
        assert await fake.wait() == 0
        with pytest.raises(KernelDied, match="exit status 0"):
            await client.kernel_info()
