"""Everything that the messaging specification lets a client ask, asked of a real ipykernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from kernelproto import (
    ClearOutput,
    DisplayData,
    ExecuteResult,
    ExecutionTimeout,
    InputRequest,
    Kernel,
    RefusedOutput,
    Stream,
    UnsupportedRequest,
    UpdateDisplayData,
    connect_kernel,
    run_kernel,
)
from kernelproto.client.comms import Comm
from kernelproto.wire.message import Message

pytestmark = pytest.mark.anyio


@pytest.fixture
async def kernel(quick_kernels: None) -> AsyncIterator[Kernel]:
    with anyio.fail_after(90):
        async with run_kernel("pyimport/kernel") as kernel:
            yield kernel


async def text_of(kernel: Kernel, expression: str) -> str | None:
    return (await kernel.execute(expression)).raise_for_error().text


async def test_kernel_info_tells_the_language_and_the_features(kernel: Kernel) -> None:
    info = await kernel.kernel_info()

    assert info.status == "ok"
    assert info.implementation == "ipython"
    assert info.language_info.name == "python"
    assert {"kernel subshells", "debugger"} <= set(info.supported_features)


async def test_execute_gives_streams_displays_result_and_count_in_order(kernel: Kernel) -> None:
    result = await kernel.execute(
        "import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\n"
        "from IPython.display import display\ndisplay({'a': 1})\n6 * 7"
    )

    assert result.status == "ok"
    assert result.execution_count == 1
    assert (result.stdout, result.stderr, result.text) == ("out\n", "err\n", "42")
    assert [type(output) for output in result.outputs] == [
        Stream,
        Stream,
        DisplayData,
        ExecuteResult,
    ]


async def test_text_that_is_not_utf_8_is_read_with_replacement(kernel: Kernel) -> None:
    printed = await kernel.execute(r"import os; print(os.fsdecode(b'caf\xe9'))")
    raised = await kernel.execute(r"raise ValueError('caf\udce9')")

    assert printed.stdout == "caf\N{REPLACEMENT CHARACTER}\n"
    assert raised.error is not None
    assert raised.error.evalue == "caf\N{REPLACEMENT CHARACTER}"
    assert printed.outputs_complete
    assert raised.outputs_complete


async def test_an_output_that_cannot_be_read_leaves_a_trace(kernel: Kernel) -> None:
    result = await kernel.execute(
        "import sys; sys.setrecursionlimit(10_000); nested = []\n"
        "for _ in range(1_500): nested = [nested]\n"
        "from IPython.display import display\n"
        "display({'application/json': nested}, raw=True)\n"
        "print('after')"
    )

    refused, after = result.outputs
    assert isinstance(refused, RefusedOutput)
    assert refused.msg_type == "display_data"
    assert after == Stream("stdout", "after\n")
    assert not result.outputs_complete


async def test_an_error_is_data_and_aborts_what_is_queued_behind_it(kernel: Kernel) -> None:
    async with (
        kernel.execute("import time; time.sleep(0.2); 1 / 0") as failing,
        kernel.execute("2") as queued,
    ):
        failed, aborted = await failing, await queued

    assert failed.error is not None
    assert failed.error.ename == "ZeroDivisionError"
    assert aborted.status == "aborted"


async def test_silent_code_has_no_outputs_history_or_count(kernel: Kernel) -> None:
    result = await kernel.execute("hidden = 1; hidden", silent=True)

    assert result.outputs == []
    assert (await kernel.execute("hidden")).execution_count == 1


async def test_user_expressions_are_evaluated_after_the_code(kernel: Kernel) -> None:
    result = await kernel.execute("x = 3", user_expressions={"double": "x * 2", "bad": "1 / 0"})

    assert result.user_expressions["double"]["data"]["text/plain"] == "6"
    assert result.user_expressions["bad"]["ename"] == "ZeroDivisionError"


async def test_payload_carries_the_kernels_requests_to_the_frontend(kernel: Kernel) -> None:
    result = await kernel.execute("get_ipython().set_next_input('typed for you')")

    assert result.payload[0]["source"] == "set_next_input"
    assert result.payload[0]["text"] == "typed for you"


async def test_clear_output_waits_for_the_next_output_when_told_to(kernel: Kernel) -> None:
    code = "from IPython.display import clear_output\nprint('old')\nclear_output(wait={})\n{}"

    replaced = await kernel.execute(code.format(True, "print('new')"))
    kept = await kernel.execute(code.format(True, ""))
    cleared = await kernel.execute(code.format(False, ""))

    assert (replaced.stdout, kept.stdout, cleared.stdout) == ("new\n", "old\n", "")


async def test_iterating_gives_updates_and_clears_as_they_come(kernel: Kernel) -> None:
    execution = kernel.execute(
        "from IPython.display import clear_output, display\n"
        "handle = display('one', display_id='d')\nhandle.update('two')\nclear_output()"
    )

    kinds = [type(output) async for output in execution]

    assert kinds == [DisplayData, UpdateDisplayData, ClearOutput]


async def test_a_display_update_rewrites_the_outputs_of_an_earlier_execution(
    kernel: Kernel,
) -> None:
    first = kernel.execute(
        "from IPython.display import display\nhandle = display('one', display_id='d')\nprint('x')"
    )
    before = await first
    await kernel.execute("handle.update('two')")
    after = await first

    assert [type(output) for output in after.outputs] == [DisplayData, Stream]
    assert before.outputs[0].data["text/plain"] == "'one'"
    assert after.outputs[0].data["text/plain"] == "'two'"


async def test_completion_and_inspection_take_the_cursor_in_characters(kernel: Kernel) -> None:
    await kernel.execute("snowman = '\N{SNOWMAN}'")
    code = "'\N{SNOWMAN}\N{PILE OF POO}' + snowm"

    completion = await kernel.complete(code)
    inspection = await kernel.inspect("snowman + x", cursor_pos=3)

    assert completion.matches == ["snowman"]
    assert code[completion.cursor_start : completion.cursor_end] == "snowm"
    assert inspection.found
    assert "str" in inspection.data["text/plain"]
    assert not (await kernel.inspect("nowhere_to_be_found")).found


@pytest.mark.parametrize(
    ("code", "status"),
    [("1 + 1", "complete"), ("for x in y:", "incomplete"), ("1 +* 1", "invalid")],
)
async def test_is_complete(kernel: Kernel, code: str, status: str) -> None:
    assert (await kernel.is_complete(code)).status == status


async def test_history_has_three_access_types(kernel: Kernel) -> None:
    for code in ("first = 1", "second = 2", "third = 3"):
        await kernel.execute(code)

    tail = await kernel.history("tail", n=2)
    lines = await kernel.history("range", session=0, start=1, stop=3)
    found = await kernel.history("search", pattern="*eco*", n=5)

    assert [entry[2] for entry in tail.history] == ["second = 2", "third = 3"]
    assert [entry[2] for entry in lines.history] == ["first = 1", "second = 2"]
    assert [entry[2] for entry in found.history] == ["second = 2"]


async def test_two_subshells_run_side_by_side(kernel: Kernel) -> None:
    await kernel.execute("import threading; a, b = threading.Event(), threading.Event()")
    subshell = (await kernel.create_subshell()).subshell_id
    assert (await kernel.list_subshells()).subshell_id == [subshell]

    # Each waits for the other, so they get to their ends only when both run.
    async with (
        kernel.execute("a.set(); print(b.wait(60))") as in_main,
        kernel.execute("b.set(); print(a.wait(60))", subshell_id=subshell) as in_subshell,
    ):
        assert (await in_main).stdout == "True\n"
        assert (await in_subshell).stdout == "True\n"

    await kernel.delete_subshell(subshell)
    assert (await kernel.list_subshells()).subshell_id == []


async def test_the_debugger_stops_shows_variables_and_goes_on(kernel: Kernel) -> None:
    code = "def double(number):\n    result = number * 2\n    return result\ndouble(21)\n"

    async def ask(command: str, **arguments: Any) -> dict[str, Any]:
        response = await kernel.debug(command, arguments)
        assert response["success"], response
        return response.get("body") or {}

    async with kernel.client.debug_events() as events:
        await ask("initialize", clientID="test", adapterID="", linesStartAt1=True)
        await ask("attach")
        source = {"path": (await ask("dumpCell", code=code))["sourcePath"]}
        await ask("setBreakpoints", source=source, breakpoints=[{"line": 3}])
        await ask("configurationDone")
        async with kernel.execute(code) as execution:
            async for event in events:
                if event["event"] == "stopped":
                    break
            thread = event["body"]["threadId"]
            frame = (await ask("stackTrace", threadId=thread))["stackFrames"][0]
            scope = (await ask("scopes", frameId=frame["id"]))["scopes"][0]
            reference = scope["variablesReference"]
            variables = (await ask("variables", variablesReference=reference))["variables"]
            await ask("continue", threadId=thread)
            result = await execution

    assert (frame["name"], frame["line"]) == ("double", 3)
    assert {"name": "number", "value": "21"}.items() <= variables[0].items()
    assert result.text == "42"


async def test_usage_tells_memory_and_process(kernel: Kernel) -> None:
    usage = await kernel.usage()

    assert usage.pid == int(await text_of(kernel, "import os; os.getpid()") or 0)
    assert usage.kernel_memory is not None
    assert usage.kernel_memory > 1_000_000


@pytest.mark.parametrize("channel", ["shell", "control"])
async def test_a_request_that_the_kernel_does_not_know_fails(kernel: Kernel, channel: Any) -> None:
    with pytest.raises(UnsupportedRequest, match="nonsense_request"):
        await kernel.request("nonsense_request", {}, channel)


async def test_comms_are_opened_from_either_side_and_carry_buffers(kernel: Kernel) -> None:
    await kernel.execute(
        "import comm\ngot = []\n"
        "def opened(comm, message):\n"
        "    def echo(m):\n"
        "        comm.send({'echo': m['content']['data']}, buffers=m['buffers'])\n"
        "    comm.on_msg(echo)\n"
        "comm.get_comm_manager().register_target('echo', opened)"
    )
    async with await kernel.comms.open("echo", {"hello": 1}) as echo:
        await echo.send({"n": 1}, buffers=[b"binary \0 data", memoryview(b"more")])
        answer = await anext(echo)
    assert answer.content.data == {"echo": {"n": 1}}
    assert [bytes(buffer) for buffer in answer.buffers] == [b"binary \0 data", b"more"]
    assert (await kernel.comm_info("echo")).comms == {}

    received: list[object] = []
    told = anyio.Event()

    async def on_open(comm: Comm, message: Message) -> None:
        received.append(message.content.data)
        async for from_kernel in comm:
            received.append(from_kernel.content.data)
        told.set()

    kernel.comms.register_target("here", on_open)
    await kernel.execute(
        "c = comm.create_comm(target_name='here', data={'open': 1})\n"
        "c.send({'message': 2})\nc.close()"
    )
    await told.wait()
    assert received == [{"open": 1}, {"message": 2}]


async def test_a_comm_to_an_unknown_target_is_closed_by_the_kernel(kernel: Kernel) -> None:
    comm = await kernel.comms.open("nobody home")

    assert [message async for message in comm] == []
    assert comm.closed


async def test_a_widgets_value_is_set_and_its_callbacks_output_arrives(kernel: Kernel) -> None:
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")
    comm_id = await text_of(
        kernel,
        "import ipywidgets\nslider = ipywidgets.IntSlider(value=7, max=100)\n"
        "slider.observe(lambda change: print('moved to', change['new']), names='value')\n"
        "slider.comm.comm_id",
    )
    assert comm_id is not None
    slider = kernel.comms.attach(comm_id.strip("'"), "jupyter.widget")

    async with kernel.client.messages(msg_types=("stream",)) as streams:
        await slider.send({"method": "update", "state": {"value": 42}, "buffer_paths": []})
        message, channel = await anext(streams)

    assert (message.content.text, channel) == ("moved to 42\n", "iopub")
    assert await text_of(kernel, "slider.value") == "42"


async def test_input_and_passwords_are_answered(kernel: Kernel) -> None:
    asked: list[InputRequest] = []

    async def answer(question: InputRequest) -> str:
        asked.append(question)
        return "secret" if question.password else "ada"

    code = "import getpass; (input('user: '), getpass.getpass('password: '))"
    result = await kernel.execute(code, on_input=answer)

    assert result.text == "('ada', 'secret')"
    assert asked == [InputRequest("user: "), InputRequest("password: ", password=True)]


async def test_input_without_anybody_to_ask_is_the_kernels_own_error(kernel: Kernel) -> None:
    result = await kernel.execute("input()", allow_stdin=False)

    assert result.error is not None
    assert result.error.ename == "StdinNotImplementedError"


async def test_an_interrupt_withdraws_the_question_and_the_next_one_is_answered(
    kernel: Kernel,
) -> None:
    asked = anyio.Event()

    async def never(question: InputRequest) -> str:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with anyio.create_task_group() as tasks, kernel.execute("input()", on_input=never) as one:

        async def interrupt_when_asked() -> None:
            await asked.wait()
            await kernel.interrupt()

        tasks.start_soon(interrupt_when_asked)
        result = await one

    assert result.error is not None
    assert result.error.ename == "KeyboardInterrupt"
    answered = await kernel.execute("input()", on_input=lambda question: "now")
    assert answered.text == "'now'"


async def test_timeout_interrupts_the_code_and_carries_the_result(kernel: Kernel) -> None:
    code = "print('so far', flush=True)\nwhile True: pass"
    with pytest.raises(ExecutionTimeout) as late:
        await kernel.execute(code, timeout=0.3)

    assert late.value.ename == "KeyboardInterrupt"
    assert late.value.result.stdout == "so far\n"
    assert await text_of(kernel, "6 * 7") == "42"


async def test_timeout_and_cancellation_strike_no_code_before_their_turn(kernel: Kernel) -> None:
    async with kernel.execute("import time; time.sleep(1.5); 'slept'") as running:
        with anyio.move_on_after(0.2) as scope:
            await kernel.execute("while True: pass", interrupt_on_cancel=True, stop_on_error=False)
        assert scope.cancelled_caught
        assert (await kernel.execute("6 * 7", timeout=1)).text == "42"
        assert (await running).text == "'slept'"


async def test_interrupt_of_a_queued_execution_waits_for_its_turn(kernel: Kernel) -> None:
    async with (
        kernel.execute("import time; time.sleep(1); 'slept'") as running,
        kernel.execute("while True: pass", stop_on_error=False) as queued,
    ):
        await queued.interrupt()
        interrupted = await queued

        assert (await running).text == "'slept'"
        assert interrupted.error is not None
        assert interrupted.error.ename == "KeyboardInterrupt"


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio; await asyncio.sleep(60)",
        "import asyncio; await asyncio.Event().wait()",
    ],
    ids=["sleep", "event"],
)
async def test_interrupt_ends_a_top_level_await(kernel: Kernel, code: str) -> None:
    execution = kernel.execute(f"print('begun', flush=True); {code}")
    with anyio.fail_after(30):
        assert isinstance(await anext(execution), Stream)
        await kernel.interrupt()
        result = await execution

    assert result.status == "error"


async def test_interrupt_on_cancel_stops_the_code_before_the_next_is_sent(kernel: Kernel) -> None:
    with anyio.move_on_after(0.5) as scope:
        await kernel.execute("while True: pass", interrupt_on_cancel=True)

    assert scope.cancelled_caught
    assert await text_of(kernel, "6 * 7") == "42"


async def test_cancelling_without_it_leaves_the_code_alone(kernel: Kernel) -> None:
    execution = kernel.execute("input()", on_input=lambda question: "waited for")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await execution

    assert (await execution).text == "'waited for'"


async def test_a_second_client_sees_its_own_replies_and_on_demand_everybodys_outputs(
    kernel: Kernel,
) -> None:
    async with (
        connect_kernel(kernel.connection_info) as second,
        second.messages(msg_types=("stream",)) as streams,
    ):
        await kernel.execute("print('of the first')")
        own = await second.execute("print('of the second')")
        texts = [(await anext(streams))[0].content.text for _ in range(2)]

    assert own.stdout == "of the second\n"
    assert texts == ["of the first\n", "of the second\n"]
    assert await text_of(kernel, "'still there'") == "'still there'"


async def test_a_slow_observer_holds_up_nobody_and_is_told_what_it_missed(kernel: Kernel) -> None:
    client = kernel.client
    async with (
        client.messages(msg_types=("stream",), limit=5_000) as too_slow,
        client.messages(msg_types=("stream",), limit=5_000, overflow="drop_oldest") as forgetful,
        client.messages(msg_types=("stream",)) as patient,
    ):
        result = await kernel.execute("for n in range(50): print(n, flush=True)")
        everything = "".join([(await anext(patient))[0].content.text for _ in range(50)])
        latest = (await anext(forgetful))[0].content.text

    assert result.stdout == everything == "".join(f"{n}\n" for n in range(50))
    assert forgetful.dropped > 0
    assert int(latest) == forgetful.dropped
    assert too_slow.dropped == 0


async def test_handlers_are_called_until_they_are_removed(kernel: Kernel) -> None:
    seen: list[str] = []
    both = anyio.Event()

    async def handler(message: Message, channel: str) -> None:
        if message.msg_type == "stream":
            seen.append(message.content.text)
            if len(seen) == 2:
                both.set()

    kernel.client.add_handler(handler)
    await kernel.execute("print(1)")
    await kernel.execute("print(2)")
    await both.wait()
    kernel.client.remove_handler(handler)
    await kernel.execute("print(3)")

    assert seen == ["1\n", "2\n"]


async def test_what_others_run_is_seen_by_whoever_watches(kernel: Kernel) -> None:
    async with (
        connect_kernel(kernel.connection_info) as watcher,
        watcher.messages(msg_types=("execute_input", "status")) as messages,
    ):
        async with kernel.execute("input()", on_input=lambda question: "done") as execution:
            while True:
                message, _ = await anext(messages)
                if message.msg_type == "execute_input":
                    break
            assert message.content.code == "input()"
            assert watcher.busy
            await execution
        while watcher.busy:
            await anext(messages)

    assert kernel.state == "idle"


async def test_the_heartbeat_is_echoed(kernel: Kernel) -> None:
    assert await kernel.client.heartbeat() > 0


async def test_the_deprecated_connect_request_gives_the_ports(kernel: Kernel) -> None:
    reply = await kernel.request("connect_request", {})

    assert reply.content.shell_port == kernel.connection_info.shell_port


async def test_an_interrupt_by_message_ends_the_code(kernel: Kernel) -> None:
    async with (
        kernel.client.messages(msg_types=("stream",)) as streams,
        kernel.execute("print('running', flush=True)\nwhile True: pass") as execution,
    ):
        await anext(streams)  # it is in the code now, where an interrupt strikes
        reply = await kernel.client.interrupt()
        result = await execution

    assert reply.status == "ok"
    assert result.error is not None
    assert result.error.ename == "KeyboardInterrupt"


async def test_a_client_can_ask_the_kernel_to_end(kernel: Kernel) -> None:
    reply = await kernel.client.shutdown()

    assert (reply.status, reply.restart) == ("ok", False)
    assert await kernel.manager.wait() == 0
