"""Kernels of other languages and makes: each has habits, and none of them may confuse a client.

install.py installs them; what is missing is skipped. What a kernel is known to do stands in one
table, HABITS, so that a new version which has changed its ways fails a test that says what it was.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kernelproto import (
    DisplayData,
    ExecuteResult,
    Execution,
    ExecutionResult,
    InputRequest,
    Kernel,
    KernelClient,
    KernelDied,
    KernelExitedEarly,
    KernelNotReady,
    LaunchError,
    RemoteProtocolError,
    Stream,
    Timeouts,
    UnsupportedRequest,
    connect_kernel,
    run_kernel,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

# What is decided by the kernel alone is the same on every event loop.
on_one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])

GUARD_SECONDS = 60

# Longer than the client waits for the reply to a request that the kernel is through with.
SILENCE_SECONDS = 3


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What a kernel is known to do.

    Attributes:
        name: of its kernelspec.
        hello: code that prints "hello" and a newline.
        value: code whose value is 42, and how that comes back.
        display: code that displays the HTML ``<b>x</b>``; None where it can't.
        error: code that fails, the name of the error, and whether an error output tells of it.
        sleep: code that takes 0.3 s, during which others are queued.
        after_error: what becomes of executions that are queued behind an error.
        loop: code that prints "hello" and then never ends.
        interrupted: the status of that code when it is interrupted, or the exit status of the
            kernel which dies of it.
        late: code that prints "late" after it has ended; None where nobody would see it.
        ask: code that asks "who? " and prints the answer; None where it can't.
        unknown: requests that it does not reply to; "comm_info" gets a wrong reply.
        silent_control: whether control says nothing at all about an unknown request.
        late_results: whether outputs may come after reply and idle, and so miss the result.
        ipc: whether it can be reached over ipc, else how that ends.
    """

    name: str
    hello: str
    value: str
    value_comes_as: type
    display: str | None = None
    error: str
    ename: str
    error_output: bool = True
    sleep: str
    after_error: str
    loop: str
    interrupted: str | int
    late: str | None = None
    ask: str | None = None
    unknown: Collection[str] = field(default_factory=frozenset)
    silent_control: bool = False
    late_results: bool = False
    ipc: type[LaunchError] | None = None

    def __str__(self) -> str:
        return self.name


PYTHON: dict[str, Any] = {
    "hello": "print('hello')",
    "value": "6 * 7",
    "value_comes_as": ExecuteResult,
    "display": "from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))",
    "error": "1 / 0",
    "sleep": "import time; time.sleep(0.3)",
    "loop": "import time\nprint('hello', flush=True)\nwhile True: time.sleep(0.01)",
    "late": "import threading\nthreading.Timer(0.1, lambda: print('late', flush=True)).start()",
    "ask": "print(input('who? '))",
}

HABITS = [
    Habits(
        name="ipykernel",
        **PYTHON,
        ename="ZeroDivisionError",
        after_error="aborted",
        interrupted="error",
    ),
    Habits(
        name="xpython",
        **PYTHON,
        ename="<class 'ZeroDivisionError'>",
        after_error="error",  # it runs them, but blames the error on them as well
        interrupted=0,
        ipc=KernelExitedEarly,  # it cannot take an endpoint of more than 31 characters
    ),
    Habits(
        name="bash",
        hello="echo hello",
        value="echo $((6 * 7))",
        value_comes_as=Stream,
        error="false",
        ename="",
        sleep="sleep 0.3",
        after_error="aborted",
        loop="echo hello; sleep 1000",
        interrupted="aborted",
    ),
    Habits(
        name="deno",
        hello="console.log('hello')",
        value="6 * 7",
        value_comes_as=ExecuteResult,
        display="await Deno.jupyter.display({'text/html': '<b>x</b>'}, {raw: true})",
        error="throw new TypeError('x')",
        ename="TypeError",
        sleep="await new Promise(done => setTimeout(done, 300))",
        after_error="ok",
        loop="console.log('hello'); while (true) await new Promise(done => setTimeout(done, 10))",
        interrupted=-signal.SIGINT,
        late="setTimeout(() => console.log('late'), 100); undefined",
        ask="console.log(prompt('who? '))",
        silent_control=True,
        late_results=True,
        ipc=KernelExitedEarly,
    ),
    Habits(
        name="tslab",
        hello="console.log('hello')",
        value="6 * 7",
        value_comes_as=Stream,
        display="import * as tslab from 'tslab'; tslab.display.html('<b>x</b>')",
        error="throw new TypeError('x')",
        ename="",
        error_output=False,
        sleep="await new Promise(done => setTimeout(done, 300))",
        after_error="aborted",
        loop="console.log('hello'); while (true) await new Promise(done => setTimeout(done, 10))",
        interrupted="error",
        late="setTimeout(() => console.log('late'), 100); undefined",
        unknown={"history", "comm_info"},
        ipc=KernelNotReady,
    ),
    Habits(
        name="ir",
        hello="cat('hello\\n')",
        value="6 * 7",
        value_comes_as=DisplayData,
        display="IRdisplay::display_html('<b>x</b>')",
        error="stop('x')",
        ename="ERROR",
        sleep="Sys.sleep(0.3)",
        after_error="aborted",
        loop="cat('hello\\n')\nwhile (TRUE) Sys.sleep(0.01)",
        interrupted="aborted",
        ask="cat(readline('who? '), '\\n', sep = '')",
        silent_control=True,
    ),
]


@pytest.fixture(params=HABITS, ids=str)
def habits(request: pytest.FixtureRequest, installed: Path) -> Habits:
    if not (installed / request.param.name / "kernel.json").exists():
        pytest.skip(f"{request.param} is not installed: run install.py, it says why")
    return request.param


@asynccontextmanager
async def running(habits: Habits, **options: Any) -> AsyncGenerator[Kernel]:
    # bash_kernel often answers shutdown_request and stays, waiting for a lock.
    options.setdefault("timeouts", Timeouts(shutdown=1))
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(f"spec/{habits.name}", **options) as kernel:
            yield kernel
            assert not kernel.client.refused


async def run_after_error(kernel: Kernel, code: str) -> None:
    """Run code until it is run: tslab aborts whatever comes within 0.2 s of an error."""
    while (await kernel.execute(code)).status == "aborted":
        await anyio.lowlevel.checkpoint()


async def complete(
    kernel: Kernel | KernelClient, habits: Habits, code: str, **options: Any
) -> ExecutionResult:
    """Run code until its outputs are in the result: deno sometimes sends them after idle."""
    while True:
        result = await kernel.execute(code, **options)
        if result.outputs or not habits.late_results:
            return result


async def interrupted(kernel: Kernel, execution: Execution) -> ExecutionResult:
    """Interrupt code until it ends: tslab misses what comes just after the code has begun."""
    while True:
        await kernel.interrupt()
        with anyio.move_on_after(1):
            return await execution


async def test_it_runs_code_and_says_what_came_of_it(habits: Habits) -> None:
    async with running(habits) as kernel:
        hello = await complete(kernel, habits, habits.hello)
        value = await kernel.execute(habits.value)
        failed = await complete(kernel, habits, habits.error)
        await run_after_error(kernel, habits.hello)

    assert (hello.status, hello.stdout, hello.stderr) == ("ok", "hello\n", "")
    assert hello.execution_count is not None
    assert value.execution_count == hello.execution_count + 1
    assert failed.status == "error"
    assert failed.error is not None
    assert failed.error.ename == habits.ename
    assert [output.__class__.__name__ for output in failed.outputs] == [
        "ErrorOutput" if habits.error_output else "Stream"
    ]


@on_one_loop
async def test_a_value_comes_in_whichever_output_it_chooses(habits: Habits) -> None:
    async with running(habits) as kernel:
        result = await complete(kernel, habits, habits.value)

    (output,) = result.outputs
    assert type(output) is habits.value_comes_as
    assert "42" in (output.text if isinstance(output, Stream) else output.data["text/plain"])


@on_one_loop
async def test_what_it_displays_arrives_as_html(habits: Habits) -> None:
    if habits.display is None:
        pytest.skip("it displays nothing but text")
    async with running(habits) as kernel:
        result = await complete(kernel, habits, habits.display)

    (output,) = result.outputs
    assert isinstance(output, DisplayData)
    assert output.data["text/html"] == "<b>x</b>"


@on_one_loop
async def test_every_request_is_answered_or_refused(habits: Habits) -> None:
    async with running(habits) as kernel:
        await kernel.execute(habits.hello)
        requests: dict[str, Callable[[], Awaitable[Any]]] = {
            "kernel_info": kernel.kernel_info,
            "complete": lambda: kernel.complete("pri"),
            "inspect": lambda: kernel.inspect("print"),
            "is_complete": lambda: kernel.is_complete(habits.hello),
            "history": kernel.history,
            "comm_info": kernel.comm_info,
        }
        for name, ask in requests.items():
            if name in habits.unknown:
                with pytest.raises((UnsupportedRequest, RemoteProtocolError)):
                    await ask()
            else:
                reply = await ask()
                assert reply.status in ("ok", "complete", "unknown")
        with pytest.raises(UnsupportedRequest):
            await kernel.request("no_such_request", {})
        assert (await kernel.execute(habits.hello)).status == "ok"
        assert await kernel.client.heartbeat() > 0


@on_one_loop
async def test_an_unknown_request_on_control_is_refused(
    habits: Habits, request: pytest.FixtureRequest
) -> None:
    if habits.silent_control:
        reason = "it says nothing about unknown requests on control, and the client waits"
        request.applymarker(pytest.mark.xfail(strict=True, raises=TimeoutError, reason=reason))
    async with running(habits) as kernel:
        with anyio.fail_after(SILENCE_SECONDS), pytest.raises(UnsupportedRequest):
            await kernel.request("no_such_request", {}, "control")


async def test_an_interrupt_ends_the_code_or_else_the_kernel(habits: Habits) -> None:
    async with running(habits) as kernel, kernel.execute(habits.loop) as execution:
        async for output in execution:
            if isinstance(output, Stream) and "hello" in output.text:
                break
        if isinstance(habits.interrupted, str):
            assert (await interrupted(kernel, execution)).status == habits.interrupted
            await run_after_error(kernel, habits.hello)
        else:
            with pytest.raises(KernelDied) as death:
                await interrupted(kernel, execution)
            assert death.value.returncode == habits.interrupted


async def test_who_waits_hears_at_once_that_it_was_killed(habits: Habits) -> None:
    async with running(habits) as kernel:
        async with kernel.execute(habits.loop) as execution:
            await anext(aiter(execution))
            await kernel.manager.kill()
            with pytest.raises(KernelDied) as death:
                await execution
        assert death.value.returncode == -signal.SIGKILL


@on_one_loop
async def test_what_is_queued_behind_an_error_is_told_what_became_of_it(habits: Habits) -> None:
    async with (
        running(habits) as kernel,
        kernel.execute(habits.sleep) as sleeping,
        kernel.execute(habits.error) as failing,
        kernel.execute(habits.hello) as queued,
        kernel.execute(habits.hello) as last,
    ):
        statuses = [(await each).status for each in (sleeping, failing, queued, last)]

    assert statuses == ["ok", "error", habits.after_error, habits.after_error]


async def test_it_asks_and_prints_the_answer(habits: Habits) -> None:
    if habits.ask is None:
        pytest.skip("it cannot ask")
    questions: list[str] = []

    def answer(question: InputRequest) -> str:
        questions.append(question.prompt)
        return "Ada"

    async with running(habits) as kernel:
        result = await complete(kernel, habits, habits.ask, on_input=answer)

    assert result.stdout == "Ada\n"
    assert set(questions) == {"who? "}


@on_one_loop
async def test_what_it_prints_after_the_end_reaches_who_watches(habits: Habits) -> None:
    if habits.late is None:
        pytest.skip("nobody would see it")
    async with (
        running(habits) as kernel,
        kernel.client.messages(msg_types=("stream",)) as messages,
    ):
        assert (await kernel.execute(habits.late)).status == "ok"
        async for message, _ in messages:
            if "late" in message.content.text:
                break


@on_one_loop
async def test_two_clients_have_each_their_own_results(habits: Habits) -> None:
    async with running(habits) as kernel, connect_kernel(kernel.connection_info) as other:
        first = await complete(kernel, habits, habits.hello)
        second = await complete(other, habits, habits.hello)

    assert (first.stdout, second.stdout) == ("hello\n", "hello\n")


@on_one_loop
async def test_ipc_works_or_fails_with_a_reason(habits: Habits) -> None:
    if habits.ipc is None:
        async with running(habits, transport="ipc") as kernel:
            assert (await complete(kernel, habits, habits.hello)).stdout == "hello\n"
        return
    with pytest.raises(habits.ipc):
        async with running(habits, transport="ipc", timeouts=Timeouts(startup=5)):
            pass


@on_one_loop
@pytest.mark.xfail(strict=True, reason="deno reports idle before its outputs; they are lost")
@pytest.mark.parametrize(
    "habits", [each for each in HABITS if each.late_results], indirect=True, ids=str
)
async def test_outputs_that_come_after_idle_are_in_the_result(habits: Habits) -> None:
    code = "for (let i = 0; i < 30; i++) console.log(i); 42"
    async with running(habits) as kernel:
        texts = [(await kernel.execute(code)).text for _ in range(30)]

    assert texts == ["42"] * 30
