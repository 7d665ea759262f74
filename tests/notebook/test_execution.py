"""Execution cell by cell, on a new kernel or on a given one."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import anyio
import pytest

from kernelproto import (
    CellTimeout,
    ClientClosed,
    ExecutionError,
    InvalidNotebook,
    InvalidParameter,
    KernelDied,
    KernelFinder,
    LocalProtocolError,
    OutputOverflow,
    Stream,
    run_kernel,
)
from kernelproto.client import lost_replies
from kernelproto.notebook import (
    CellFinished,
    CellOutput,
    CellStarted,
    execute_notebook,
    read_notebook,
)
from kernelproto.notebook.files import parse_notebook
from kernelproto.testing import CodeError, FakeProvider
from kernelproto.timeouts import Timeouts
from kernelproto.wire.content import DisplayData, ExecuteRequest, KernelInfoReply, LanguageInfo

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


def texts(nb) -> list[str]:
    """Return the text or the name of the exception of each cell."""
    return [
        "".join(output.get("text") or output.get("ename", "") for output in cell.outputs)
        for cell in nb.cells
    ]


async def test_cells_are_executed_in_order(notebook, connected) -> None:
    nb = notebook("say one", "say two")

    async with connected() as (fake, client):
        result = await execute_notebook(nb, client)

    assert texts(nb) == ["one", "two"]
    assert [cell.execution_count for cell in nb.cells] == [1, 2]
    assert [request.code for request in fake.contents(ExecuteRequest)] == ["say one", "say two"]
    assert result.notebook is nb
    assert (result.status, result.failed, result.total) == ("ok", None, 2)
    assert result.raise_for_error() is result


async def test_events_of_every_cell(notebook, connected) -> None:
    nb = notebook("", "say one", "raise Oops", "say three")

    async with connected() as (_, client), execute_notebook(nb, client) as execution:
        events = [event async for event in execution]

    started, output, finished, failing, error, failed = events
    assert started == CellStarted(index=1, number=1, total=3)
    assert output == CellOutput(index=1, output=Stream("stdout", "one"))
    assert finished == CellFinished(
        index=1, number=1, total=3, status="ok", duration=finished.duration, execution_count=1
    )
    assert finished.duration > 0
    assert failing == CellStarted(index=2, number=2, total=3)
    assert error.output == failed.error
    assert (failed.status, failed.allowed, failed.error.ename) == ("error", False, "Oops")


async def test_exception_ends_the_execution(notebook, connected) -> None:
    nb = notebook("say one", "raise Oops", "say three")

    async with connected() as (_, client):
        result = await execute_notebook(nb, client)

    assert texts(nb) == ["one", "Oops", ""]
    assert result.status == "error"
    assert result.failed == result.cells[1]
    with pytest.raises(ExecutionError, match="cell 2 of 3: Oops: on purpose") as caught:
        result.raise_for_error()
    assert caught.value.ename == "Oops"


@pytest.mark.parametrize(
    ("tags", "options", "executed"),
    [
        ((), {"allow_errors": True}, 2),
        ((), {"allow_error_names": ["Oops"]}, 2),
        ((), {"allow_error_names": ["Other"]}, 1),
        (("raises-exception",), {}, 2),
        (("raises-exception",), {"force_raise_errors": True}, 1),
        ((), {"allow_errors": True, "force_raise_errors": True}, 1),
    ],
)
async def test_allowed_exceptions(tags, options, executed, notebook, connected) -> None:
    nb = notebook(("raise Oops", *tags), "say on")

    async with connected() as (_, client):
        result = await execute_notebook(nb, client, **options)

    assert len(result.cells) == executed
    assert result.status == ("ok" if executed == 2 else "error")


async def test_skipped_cells_are_unchanged(notebook, connected) -> None:
    nb = notebook(("say no", "skip-execution"), "  \n", "say yes")
    nb.cells[0].outputs = [{"output_type": "stream", "name": "stdout", "text": "earlier"}]
    nb.cells[2].outputs = [{"output_type": "stream", "name": "stdout", "text": "earlier"}]

    async with connected() as (fake, client):
        await execute_notebook(nb, client)

    assert [request.code for request in fake.contents(ExecuteRequest)] == ["say yes"]
    assert texts(nb) == ["earlier", "", "yes"]


async def test_timeout_interrupts_the_cell(notebook, connected) -> None:
    nb = notebook("sleep", "say on")

    async with connected() as (_, client):
        stopped = await execute_notebook(nb, client, timeout=0.01)
        result = await execute_notebook(nb, client, timeout=0.01, allow_errors=True)

    assert (stopped.status, stopped.failed.error.ename) == ("timeout", "KeyboardInterrupt")
    with pytest.raises(CellTimeout, match="cell 1 of 2 was interrupted"):
        stopped.raise_for_error()
    assert [cell.status for cell in result.cells] == ["timeout", "ok"]
    assert nb.cells[0].outputs[0].text == "sleeping"


async def test_code_that_ignores_the_interrupt(
    notebook, connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    nb = notebook("sleep", "say on")

    async with connected() as (fake, client):
        monkeypatch.setattr(client.executions, "_timeouts", Timeouts(interrupt=0.01))
        fake.deaf.add("control")
        with pytest.raises(CellTimeout, match="cell 1 of 2 is still running") as caught:
            await execute_notebook(nb, client, timeout=0.01, allow_errors=True)

    assert caught.value.index == 0
    assert texts(nb) == ["sleeping", ""]


@pytest.mark.parametrize("allow_errors", [False, True])
async def test_lost_reply_is_an_error_of_its_cell(
    notebook, connected, allow_errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_replies, "LOOK_SECONDS", 0.05)
    nb = notebook("say one", "say two")

    async with connected() as (fake, client):
        fake.faults.drop("execute_reply", times=1)
        result = await execute_notebook(nb, client, allow_errors=allow_errors)

    assert [cell.status for cell in result.cells] == (
        ["error", "ok"] if allow_errors else ["error"]
    )
    assert result.cells[0].error.ename == "ReplyLost"
    assert nb.cells[0].outputs[0].text == "one"
    assert nb.cells[0].outputs[1].ename == "ReplyLost"


async def test_input_is_refused(notebook, connected) -> None:
    nb = notebook("ask")

    async with connected() as (_, client):
        result = await execute_notebook(nb, client)

    assert result.failed.error.ename == "StdinNotImplementedError"


async def test_death_of_the_kernel_keeps_earlier_outputs(
    notebook, connected, tmp_path: Path
) -> None:
    nb = notebook("say one", "die", "say three")
    path = tmp_path / "out.ipynb"

    async with connected() as (_, client):
        execution = execute_notebook(nb, client, save_to=path, allow_errors=True)
        with pytest.raises(KernelDied):
            await execution
        with pytest.raises(KernelDied):
            await execution

    assert texts(nb) == texts(read_notebook(path)) == ["one", "last words", ""]


async def test_cells_after_a_failed_one_have_no_old_outputs(notebook, connected) -> None:
    nb = notebook("say one", "say two", "raise Oops", "say three", ("say four", "skip-execution"))
    async with connected() as (_, client):
        await execute_notebook(nb, client, allow_errors=True)
        nb["cells"][1]["source"] = "raise Oops"
        await execute_notebook(nb, client)

    assert texts(nb)[0] == "one"
    assert [len(cell["outputs"]) for cell in nb["cells"]] == [1, 1, 0, 0, 0]
    assert nb["cells"][3]["execution_count"] is None


async def test_notebook_is_saved_after_each_cell(notebook, connected, tmp_path: Path) -> None:
    path = tmp_path / "out.ipynb"
    saved = []

    async with connected() as (_, client):
        nb = notebook("say one", "say two")
        async for event in execute_notebook(nb, client, save_to=path):
            if isinstance(event, CellFinished):
                saved.append(texts(read_notebook(path)))

    assert saved == [["one", ""], ["one", "two"]]
    assert os.listdir(tmp_path) == [path.name]


async def test_notebook_is_saved_on_cancellation(notebook, connected, tmp_path: Path) -> None:
    path = tmp_path / "out.ipynb"
    nb = notebook("say one", "sleep")

    async with connected() as (_, client):
        with anyio.CancelScope() as scope:
            async with execute_notebook(nb, client, save_to=path) as execution:
                async for event in execution:
                    if isinstance(event, CellOutput) and event.index == 1:
                        scope.cancel()

    assert scope.cancelled_caught
    assert texts(read_notebook(path)) == ["one", "sleeping"]


@pytest.mark.parametrize("last", ["say two", "die"])
async def test_fifo_gets_the_notebook_once(notebook, connected, tmp_path: Path, last: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    nb = notebook("say one", last)

    async with connected() as (_, client), anyio.create_task_group() as tasks:
        received: list[bytes] = []

        async def read() -> None:
            received.append(await anyio.to_thread.run_sync(fifo.read_bytes))

        tasks.start_soon(read)
        with nullcontext() if last == "say two" else pytest.raises(KernelDied):
            await execute_notebook(nb, client, save_to=fifo)

    assert texts(parse_notebook(received[0], "fifo")) == texts(nb)


async def test_fifo_without_a_reader_delays_no_cancellation(
    notebook, connected, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async with connected() as (_, client):
        with anyio.CancelScope() as scope:
            async for event in execute_notebook(notebook("say one"), client, save_to=fifo):
                if isinstance(event, CellFinished):
                    scope.cancel()
    assert scope.cancelled_caught


async def test_await_continues_after_an_iteration(notebook, connected) -> None:
    nb = notebook("say one", "say two")

    async with connected() as (_, client):
        execution = execute_notebook(nb, client)
        async for event in execution:
            if isinstance(event, CellFinished):
                break
        assert texts(nb) == ["one", ""]
        result = await execution
        assert await execution is result

    assert texts(nb) == ["one", "two"]
    assert len(result.cells) == 2


async def test_leaving_the_block_ends_the_execution(notebook, connected) -> None:
    nb = notebook("say one", "say two")

    async with connected() as (fake, client):
        async with execute_notebook(nb, client) as execution:
            async for event in execution:
                if isinstance(event, CellFinished):
                    break
        with pytest.raises(ClientClosed):
            await execution
        assert (await client.execute("say more")).stdout == "more"

    assert texts(nb) == ["one", ""]
    assert len(fake.contents(ExecuteRequest)) == 2


async def test_empty_block_executes_no_cell(notebook, connected) -> None:
    async with connected() as (fake, client), execute_notebook(notebook("say one"), client):
        pass

    assert not fake.contents(ExecuteRequest)


async def test_unused_execution_warns(notebook) -> None:
    execution = execute_notebook(notebook("say one"))
    with pytest.warns(RuntimeWarning, match="never awaited or iterated"):
        del execution


async def test_late_output_goes_to_the_cell_that_caused_it(notebook, connected) -> None:
    nb = notebook("begin", "end")

    async with connected() as (fake, client):
        begun = []

        async def begin(exchange) -> None:
            begun.append(exchange)

        async def end(exchange) -> None:
            begun[0].stream("late")

        fake.on_execute("begin", begin)
        fake.on_execute("end", end)
        await execute_notebook(nb, client)

    assert texts(nb) == ["late", ""]


async def test_output_beyond_the_limit_ends_the_execution(notebook, connected) -> None:
    nb = notebook("show", "say on")

    async def show(exchange) -> None:
        for number in range(10):
            exchange.display(f"{number}" * 1000)

    async with connected() as (fake, client):
        fake.on_execute("show", show)
        with pytest.raises(OutputOverflow, match="more than 5000 bytes") as caught:
            await execute_notebook(nb, client, output_limit=5000)

    assert 0 < len(nb.cells[0].outputs) < 5
    assert caught.value.discarded_messages == 10 - len(nb.cells[0].outputs)


async def test_output_that_nbformat_does_not_allow_is_removed(notebook, connected) -> None:
    nb = notebook("show")

    async def show(exchange) -> None:
        exchange.stream("before")
        exchange.publish(DisplayData({"text/plain": 5}))

    async with connected() as (fake, client):
        fake.on_execute("show", show)
        with pytest.raises(InvalidNotebook, match="cell 1 of 1 has an output"):
            await execute_notebook(nb, client)

    assert texts(nb) == ["before"]


async def test_invalid_notebook_is_not_executed(connected) -> None:
    async with connected() as (fake, client):
        with pytest.raises(InvalidNotebook, match="the notebook is invalid"):
            await execute_notebook({"nbformat": 4, "nbformat_minor": 5, "metadata": {}}, client)

    assert not fake.contents(ExecuteRequest)


async def test_times_are_recorded(notebook, connected) -> None:
    timed, untimed = notebook("say one"), notebook("say one")

    async with connected() as (_, client):
        await execute_notebook(timed, client)
        await execute_notebook(untimed, client, record_timing=False)

    assert timed.cells[0].metadata.execution.keys() == {
        "iopub.status.busy",
        "iopub.execute_input",
        "iopub.status.idle",
        "shell.execute_reply",
    }
    assert "execution" not in untimed.cells[0].metadata


async def test_parameters_are_written_in_the_language_of_the_kernel(notebook, connected) -> None:
    nb, other = notebook(("year = 1", "parameters"), "say one"), notebook("say one")
    language = LanguageInfo(name="python", version="3")

    async with connected() as (fake, client):
        fake.on("kernel_info_request", KernelInfoReply(language_info=language))
        await execute_notebook(nb, client, parameters={"year": 2026})
        fake.on("kernel_info_request", KernelInfoReply(language_info=LanguageInfo(name="cobol")))
        with pytest.raises(InvalidParameter, match="cobol"):
            await execute_notebook(other, client, parameters={"year": 2026})

    assert [cell.source for cell in nb.cells][1] == "# Parameters\nyear = 2026"
    assert [request.code for request in fake.contents(ExecuteRequest)] == [
        cell.source for cell in nb.cells
    ]
    assert nb.metadata.language_info.name == "python"


async def test_own_kernel_is_started_and_ended(notebook) -> None:
    nb = notebook("one")
    nb.metadata.kernelspec = {"name": "fake/kernel", "display_name": "Fake"}

    with anyio.fail_after(GUARD_SECONDS):
        async with FakeProvider() as provider:
            finder = KernelFinder([provider])
            await execute_notebook(nb, finder=finder)
            async with execute_notebook(nb, kernel_type="kernel", finder=finder) as execution:
                await anext(execution)
                assert provider.kernels[1].returncode is None
            await execute_notebook(notebook("one"), kernel_type="fake/kernel", finder=finder)

    assert [fake.returncode for fake in provider.kernels] == [0, 0, 0]


async def test_given_kernel_is_not_ended(notebook) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            FakeProvider() as provider,
            run_kernel("fake/kernel", finder=KernelFinder([provider])) as kernel,
        ):
            await execute_notebook(notebook("one"), kernel)
            assert kernel.state == "idle"


async def test_given_kernel_excludes_start_options(notebook, connected) -> None:
    async with connected() as (_, client):
        with pytest.raises(LocalProtocolError, match="leave out"):
            execute_notebook(notebook("one"), client, kernel_type="fake/kernel")


@pytest.mark.parametrize(
    ("last", "options", "status"),
    [
        ("raise SystemExit", {}, "ok"),
        ("raise SystemExit", {"allow_errors": True}, "ok"),
        ("raise SystemExit", {"exit_ok": False}, "error"),
        ("raise SystemExit", {"force_raise_errors": True}, "error"),
        ("exit 3", {}, "error"),
    ],
)
async def test_system_exit_ends_the_notebook(last, options, status, notebook, connected) -> None:
    nb = notebook("say one", last, "say three")
    evalue = "3" if last == "exit 3" else "0"

    async with connected() as (fake, client):
        fake.on_execute(lambda code: code == last, lambda exchange: _exit(evalue))
        result = await execute_notebook(nb, client, **options)

    assert texts(nb) == ["one", "SystemExit", ""]
    assert result.status == status
    assert result.cells[-1].status == ("exited" if status == "ok" else "error")
    assert (result.failed is None) is (status == "ok")


async def _exit(evalue: str) -> None:
    raise CodeError("SystemExit", evalue)


@pytest.mark.parametrize("last", ["raise Oops", "die"])
async def test_saved_file_has_banners(last, notebook, connected, tmp_path: Path) -> None:
    nb, path = notebook("say one", last), tmp_path / "out.ipynb"

    async with connected() as (_, client):
        with nullcontext() if last == "raise Oops" else pytest.raises(KernelDied):
            await execute_notebook(nb, client, save_to=path, error_banner=True)
    saved = read_notebook(path)
    assert [cell["cell_type"] for cell in saved.cells] == ["markdown", "code", "markdown", "code"]
    assert (
        "cell 2 of 2</a>: " + ("Oops" if last == "raise Oops" else "KernelDied")
        in (saved.cells[0]["source"])
    )
    assert len(nb["cells"]) == 2

    saved.cells[3]["source"] = "say two"
    async with connected() as (_, client):
        await execute_notebook(saved, client)
    assert texts(saved) == ["one", "two"]


async def test_execution_begins_with_a_later_cell(notebook, connected) -> None:
    nb = notebook("say one", "", "say two", "say three")

    async with connected() as (_, client):
        await execute_notebook(nb, client)
        nb["cells"][2]["source"] = "say new"
        async with execute_notebook(nb, client, from_cell=2) as execution:
            events = [event async for event in execution]
        with pytest.raises(LocalProtocolError, match="cannot begin with cell 4"):
            await execute_notebook(nb, client, from_cell=4)

    assert texts(nb) == ["one", "", "new", "three"]
    started = [event for event in events if isinstance(event, CellStarted)]
    assert [(event.number, event.total) for event in started] == [(2, 3), (3, 3)]
    with pytest.raises(LocalProtocolError, match="from 1, not 0"):
        execute_notebook(nb, from_cell=0)


async def test_time_limit_in_the_metadata_of_a_cell(notebook, connected) -> None:
    nb = notebook("sleep", "say two")
    nb["cells"][0]["metadata"]["timeout"] = 0.01

    async with connected() as (fake, client):
        result = await execute_notebook(nb, client, timeout=3600)
        assert (result.status, result.failed.index) == ("timeout", 0)
        nb["cells"][0]["metadata"]["timeout"] = "soon"
        with pytest.raises(InvalidNotebook, match="cell 1 of 2 has timeout 'soon'"):
            await execute_notebook(nb, client)
        assert len(fake.contents(ExecuteRequest)) == 1


async def test_kept_kernel_goes_on(notebook) -> None:
    execution = execute_notebook(notebook("x = 6"), keep_kernel=True)
    await execution
    try:
        assert (await execution.kernel.execute("x * 7")).text == "42"
    finally:
        await execution.kernel.shutdown()
