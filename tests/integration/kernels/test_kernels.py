"""Kernels of other languages and makes: each has habits, and none of them may confuse a client.

install.py installs them; what is missing is skipped. What a kernel is known to do stands in one
table, HABITS, so that a new version which has changed its ways fails a test that says what it was.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from kernelproto import (
    DisplayData,
    ExecuteResult,
    Execution,
    ExecutionResult,
    InputRequest,
    Kernel,
    KernelDied,
    KernelExitedEarly,
    KernelNotReady,
    KernelProtoError,
    LaunchError,
    RemoteProtocolError,
    Stream,
    Timeouts,
    UnsupportedRequest,
    connect_kernel,
    run_kernel,
)
from tests.integration.installing import installed_kernelspec

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

# Starting all of these kernels takes ten seconds. What a kernel does is the same on every event
# loop, so only the tests in which most can go wrong run on each of them.
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])

GUARD_SECONDS = 60


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
        many: code that prints much and whose value is 42; None where nothing is said after idle.
        late: code that prints "late" after it has ended; None where nobody would see it.
        ask: code that asks "who? " and prints the answer; None where it can't.
        unknown: requests that it does not reply to, or not rightly, and the exception.
        asks_uninvited: whether it asks for input though it was told not to.
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
    many: str | None = None
    late: str | None = None
    ask: str | None = None
    unknown: Mapping[str, type[KernelProtoError]] = field(default_factory=dict)
    asks_uninvited: bool = False
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

TURN = "await new Promise(done => setTimeout(done, 10))"

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
        loop="echo hello; read -t 1000",  # bash can lose a SIGINT between two programs
        interrupted="error",
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
        loop=f"console.log('hello'); while (true) {TURN}",
        interrupted=-signal.SIGINT,
        many="for (let i = 0; i < 30; i++) console.log(i); 42",
        late="setTimeout(() => console.log('late'), 100); undefined",
        ask="console.log(prompt('who? '))",
        asks_uninvited=True,
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
        # A SIGINT that comes before the first await can end tslab.
        loop=f"{TURN}; console.log('hello'); while (true) {TURN}",
        interrupted="error",
        late="setTimeout(() => console.log('late'), 100); undefined",
        unknown={"history": UnsupportedRequest, "comm_info": RemoteProtocolError},
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
        interrupted="error",
        ask="cat(readline('who? '), '\\n', sep = '')",
        asks_uninvited=True,
    ),
]


@pytest.fixture(params=HABITS, ids=str)
def habits(request: pytest.FixtureRequest) -> Habits:
    installed_kernelspec(request.param.name)
    return request.param


@asynccontextmanager
async def running(habits: Habits, **options: Any) -> AsyncGenerator[Kernel]:
    # bash_kernel often answers shutdown_request and stays, waiting for a lock.
    options.setdefault("timeouts", Timeouts(shutdown=0.5))
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(f"spec/{habits.name}", **options) as kernel:
            yield kernel
            assert not kernel.client.refused


async def run_after_error(kernel: Kernel, code: str) -> None:
    """Run code until it is run: tslab aborts whatever comes within 0.2 s of an error."""
    while True:
        if (await kernel.execute(code)).status != "aborted":
            return
        await anyio.sleep(0.05)  # tslab loses messages when too many come at once


async def test_it_runs_code_and_says_what_came_of_it(habits: Habits) -> None:
    async with running(habits) as kernel:
        hello = await kernel.execute(habits.hello)
        value = await kernel.execute(habits.value)
        failed = await kernel.execute(habits.error)
        await run_after_error(kernel, habits.hello)

    assert (hello.status, hello.stdout, hello.stderr) == ("ok", "hello\n", "")
    assert hello.execution_count is not None
    assert value.execution_count == hello.execution_count + 1
    (output,) = value.outputs
    assert type(output) is habits.value_comes_as
    assert "42" in (output.text if isinstance(output, Stream) else output.data["text/plain"])
    assert failed.status == "error"
    assert failed.error is not None
    assert failed.error.ename == habits.ename
    assert [output.__class__.__name__ for output in failed.outputs] == [
        "ErrorOutput" if habits.error_output else "Stream"
    ]


@on_trio
async def test_what_it_displays_arrives_as_html(habits: Habits) -> None:
    if habits.display is None:
        pytest.skip("it displays nothing but text")
    async with running(habits) as kernel:
        result = await kernel.execute(habits.display)

    (output,) = result.outputs
    assert isinstance(output, DisplayData)
    assert output.data["text/html"] == "<b>x</b>"


@on_asyncio
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
            "no_such on shell": lambda: kernel.request("no_such_request", {}),
            "no_such on control": lambda: kernel.request("no_such_request", {}, "control"),
        }
        async with anyio.create_task_group() as tasks:
            for name, ask in requests.items():
                tasks.start_soon(be_answered_or_refused, habits, name, ask)
        assert (await kernel.execute(habits.hello)).status == "ok"
        assert await kernel.client.heartbeat() > 0


async def be_answered_or_refused(
    habits: Habits, name: str, ask: Callable[[], Awaitable[Any]]
) -> None:
    if name in habits.unknown or name.startswith("no_such"):
        with pytest.raises(habits.unknown.get(name, UnsupportedRequest)):
            await ask()
    else:
        assert (await ask()).status in ("ok", "complete", "unknown")


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


async def interrupted(kernel: Kernel, execution: Execution) -> ExecutionResult:
    """Interrupt an execution as often as it takes: some kernels overhear one while they print."""
    while True:
        await kernel.interrupt()
        with anyio.move_on_after(5):
            return await execution


@on_trio
async def test_who_waits_hears_at_once_that_it_was_killed(habits: Habits) -> None:
    async with running(habits) as kernel:
        async with kernel.execute(habits.loop) as execution:
            await anext(aiter(execution))
            await kernel.manager.kill()
            with pytest.raises(KernelDied) as death:
                await execution
        assert death.value.returncode == -signal.SIGKILL


@on_asyncio
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


@on_asyncio
async def test_it_asks_and_prints_the_answer(habits: Habits) -> None:
    if habits.ask is None:
        pytest.skip("it cannot ask")
    questions: list[str] = []

    def answer(question: InputRequest) -> str:
        questions.append(question.prompt)
        return "Ada"

    async with running(habits) as kernel:
        result = await kernel.execute(habits.ask, on_input=answer)

    assert result.stdout == "Ada\n"
    assert set(questions) == {"who? "}


@on_trio
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


@on_asyncio
async def test_two_clients_have_each_their_own_results(habits: Habits) -> None:
    async with running(habits) as kernel, connect_kernel(kernel.connection_info) as other:
        first = await kernel.execute(habits.hello)
        second = await other.execute(habits.hello)

    assert (first.stdout, second.stdout) == ("hello\n", "hello\n")


@on_trio
async def test_ipc_works_or_fails_with_a_reason(habits: Habits) -> None:
    if habits.ipc is None:
        async with running(habits, transport="ipc") as kernel:
            assert (await kernel.execute(habits.hello)).stdout == "hello\n"
        return
    timeouts = Timeouts(startup=2 if habits.ipc is KernelNotReady else GUARD_SECONDS)
    with pytest.raises(habits.ipc):
        async with running(habits, transport="ipc", timeouts=timeouts):
            pass


@on_asyncio
async def test_no_output_is_too_late_for_the_result(habits: Habits) -> None:
    if habits.many is None:
        pytest.skip("it says idle when everything is said")
    async with running(habits) as kernel:
        texts = [(await kernel.execute(habits.many)).text for _ in range(10)]

    assert texts == ["42"] * 10


@on_trio
async def test_a_question_that_was_not_allowed_does_not_hold_it_up(habits: Habits) -> None:
    if habits.ask is None:
        pytest.skip("it cannot ask")
    async with running(habits) as kernel:
        result = await kernel.execute(habits.ask)
        assert (await kernel.execute(habits.hello)).status == "ok"

    assert result.status == ("ok" if habits.asks_uninvited else "error")
