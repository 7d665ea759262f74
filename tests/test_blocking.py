"""The blocking entry points, from threads with and without an event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernelproto import (
    BlockingKernel,
    InputRequest,
    KernelDied,
    NoSuchKernel,
    connect_kernel_blocking,
    run_kernel_blocking,
    start_kernel_blocking,
)
from kernelproto.wire.content import Output


@pytest.fixture
def kernel(no_leaks: None) -> Iterator[BlockingKernel]:
    with run_kernel_blocking("pyimport/kernel") as kernel:
        yield kernel


def run_script(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_requests_return_what_the_async_ones_do(kernel: BlockingKernel) -> None:
    assert kernel.execute("6 * 7").text == "42"
    assert kernel.complete("pri").matches == ["print"]
    assert kernel.inspect("print").found
    assert kernel.is_complete("for x in y:").status == "incomplete"
    assert kernel.history("tail", n=1).history[0][2] == "6 * 7"
    assert kernel.kernel_info().implementation == "ipython"
    assert kernel.comm_info().comms == {}
    assert kernel.request("kernel_info_request", {}).msg_type == "kernel_info_reply"
    assert kernel.state in ("idle", "busy")  # the idle of the last request may still be under way
    assert kernel.kernel_id
    subshell = kernel.create_subshell().subshell_id
    assert kernel.execute("1", subshell_id=subshell).text == "1"
    assert kernel.list_subshells().subshell_id == [subshell]


def test_exceptions_arrive_as_themselves(no_leaks: None) -> None:
    with pytest.raises(NoSuchKernel, match="pyimport/kernel"):
        run_kernel_blocking("nowhere/kernel").__enter__()
    with pytest.raises(ZeroDivisionError), run_kernel_blocking():
        _ = 1 / 0
    with run_kernel_blocking() as kernel, pytest.raises(KernelDied):
        kernel.execute("import os; os._exit(1)")


def test_outputs_are_printed_as_at_a_terminal(
    kernel: BlockingKernel, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.execute_interactive(
        "import sys; print('out'); print('err', file=sys.stderr); print('[name]')\n"
        "from IPython.display import display; display({'shown': 1}); 6 * 7"
    )
    failed = kernel.execute_interactive("1 / 0")
    printed = capsys.readouterr()

    assert printed.out == "out\n[name]\n{'shown': 1}\n42\n"
    assert printed.err.startswith("err\n")
    assert "ZeroDivisionError" in printed.err
    assert failed.status == "error"


def test_outputs_and_questions_go_to_hooks_that_are_given(kernel: BlockingKernel) -> None:
    outputs: list[Output] = []

    def answer(question: InputRequest) -> str:
        return question.prompt + "yes"

    result = kernel.execute_interactive(
        "input('well? ')", on_output=outputs.append, on_input=answer
    )

    assert result.text == "'well? yes'"
    assert outputs == list(result.outputs)


def test_it_may_be_used_from_several_threads(kernel: BlockingKernel) -> None:
    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda n: kernel.execute(str(n)).text, range(40)))

    assert texts == [str(n) for n in range(40)]


def test_a_second_client_connects_and_leaves_the_kernel_alone(kernel: BlockingKernel) -> None:
    with connect_kernel_blocking(kernel.connection_info) as client:
        client.execute("shared = 1")
        assert not client.busy
        assert client.connection_info == kernel.connection_info

    assert kernel.execute("shared").text == "1"


def test_a_started_kernel_lives_until_its_shutdown(no_leaks: None) -> None:
    kernel = start_kernel_blocking()
    try:
        assert kernel.execute("6 * 7").text == "42"
    finally:
        assert kernel.shutdown() == 0
    assert kernel.state == "dead"


@pytest.mark.asyncio
async def test_it_works_in_the_thread_pool_of_a_running_event_loop(no_leaks: None) -> None:
    def work() -> str | None:
        with run_kernel_blocking() as kernel:
            return kernel.execute("6 * 7").text

    assert await asyncio.to_thread(work) == "42"


@pytest.mark.asyncio
async def test_it_works_in_the_thread_of_a_running_event_loop_as_in_a_notebook(
    no_leaks: None,
) -> None:
    with run_kernel_blocking() as kernel:
        assert kernel.execute("6 * 7").text == "42"


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_interrupts_the_code_and_not_the_connection() -> None:
    process = run_script("""
        from kernelproto import run_kernel_blocking

        with run_kernel_blocking() as kernel:
            result = kernel.execute_interactive("print('running')\\nwhile True: pass")
            print(result.error.ename, kernel.execute("6 * 7").text)
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert out == "KeyboardInterrupt 42\n", err
    assert process.returncode == 0


def test_a_started_kernel_ends_with_the_program(runtime_dir: Path) -> None:
    process = run_script("""
        from kernelproto import start_kernel_blocking

        kernel = start_kernel_blocking()
        print(kernel.execute("import os; os.getpid()").text)
    """)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert not Path(f"/proc/{out.strip()}").exists()
    assert list(runtime_dir.iterdir()) == []
