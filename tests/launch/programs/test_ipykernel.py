"""Code in such a kernel sees an ipykernel; tests/integration/test_flood.py tests the queues."""

from __future__ import annotations

import ast
import os
import textwrap
from importlib.util import find_spec

import anyio
import pytest

from kernelproto import Kernel, run_kernel
from kernelproto.launch.programs import ipykernel

pytestmark = pytest.mark.anyio

PROGRAM = """
import os, sys
from ipykernel.kernelapp import IPKernelApp
sys.argv[0], IPKernelApp.initialized(), IPKernelApp.instance().kernel is get_ipython().kernel
"""


@pytest.mark.parametrize("kernel_type", ["pyimport/kernel", "fork/kernel"])
async def test_looks_like_any_other_ipykernel(kernel_type: str) -> None:
    async with run_kernel(kernel_type) as kernel:
        program = (await kernel.execute(PROGRAM)).raise_for_error().text or ""
        folders = (await kernel.execute("[os.path.realpath(p) for p in sys.path]")).text
    launcher = find_spec("ipykernel_launcher")
    assert launcher is not None
    assert ast.literal_eval(program) == (launcher.origin, True, True)
    assert folders is not None
    assert os.path.dirname(ipykernel.__file__) not in folders


STORM_SECONDS = float(os.environ.get("KERNELPROTO_STORM", "2"))  # a longer one by hand


@pytest.mark.parametrize("kernel_type", ["pyimport/kernel", "fork/kernel"])
async def test_interrupts_strike_the_code_and_cost_no_reply(kernel_type: str) -> None:
    statuses: set[str] = set()

    async def interrupt_for_ever(kernel: Kernel) -> None:
        while True:
            await anyio.sleep(0.02)
            await kernel.interrupt()

    async with run_kernel(kernel_type) as kernel, anyio.create_task_group() as tasks:
        tasks.start_soon(interrupt_for_ever, kernel)
        with anyio.move_on_after(STORM_SECONDS):
            while True:
                result = await kernel.execute("print('x'); 1", stop_on_error=False)
                statuses.add(result.status)
        tasks.cancel_scope.cancel()
        assert (await kernel.execute("6 * 7")).text == "42"
    assert statuses <= {"ok", "error"}


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "def f():\n    while True: pass\nf()",
        "get_ipython().run_cell_magic('time', '', 'while True: pass')",
        "[x for x in iter(int, 1)]",
        "import asyncio; await asyncio.sleep(60)",
        "while True:\n    try: exec('while True: pass')\n    finally: break",
    ],
)
async def test_interrupts_strike_all_kinds_of_code(code: str) -> None:
    async with run_kernel("pyimport/kernel") as kernel:
        execution = kernel.execute("print('begun', flush=True)\n" + code)
        await anext(execution)
        await execution.interrupt()
        assert (await execution).status in ("error", "ok")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import time; time.sleep(60)", "x = 1; eval('[x for x in iter(int, 1)]')"],
)
async def test_traceback_of_an_interrupt_ends_in_the_users_code(code: str) -> None:
    async with run_kernel("pyimport/kernel") as kernel:
        execution = kernel.execute("print('begun', flush=True)\n" + code)
        await anext(execution)
        await execution.interrupt()
        error = (await execution).error
    assert error is not None
    assert "ipykernel.py" not in "".join(error.traceback)


@pytest.mark.parametrize("kernel_type", ["pyimport/kernel", "fork/kernel"])
@pytest.mark.parametrize("statements", ["while True: pass", "x = 1\nwhile True: pass"])
async def test_interrupt_between_two_statements_strikes_the_next_one(
    kernel_type: str, statements: str
) -> None:
    code = """
    import signal

    class Interrupting(type(get_ipython().compile)):
        def __call__(self, source, *args):
            if "While" in type(source.body[0]).__name__:
                type(self).__call__ = super().__call__
                signal.raise_signal(signal.SIGINT)
            return super().__call__(source, *args)

    get_ipython().compile.__class__ = Interrupting
    """
    async with run_kernel(kernel_type) as kernel:
        (await kernel.execute(textwrap.dedent(code))).raise_for_error()
        with anyio.fail_after(60):
            result = await kernel.execute(statements)
        assert result.error is not None
        assert result.error.ename == "KeyboardInterrupt"


async def test_interrupt_after_the_last_statement_strikes_the_expressions() -> None:
    code = """
    import signal, time

    manager = get_ipython().history_manager
    store_output = manager.store_output
    cells = []

    def interrupt(cell):  # IPython calls it after the last statement of a cell
        cells.append(cell)
        if len(cells) == 2:
            signal.raise_signal(signal.SIGINT)
        store_output(cell)

    manager.store_output = interrupt
    """
    async with run_kernel("pyimport/kernel") as kernel:
        (await kernel.execute(textwrap.dedent(code))).raise_for_error()
        with anyio.fail_after(60):
            result = await kernel.execute("1", user_expressions={"x": "time.sleep(1000)"})
    assert result.status == "ok"
    assert result.user_expressions["x"]["ename"] == "KeyboardInterrupt"


async def test_interrupt_after_the_last_statement_leaves_the_next_cell_alone() -> None:
    code = """
    import signal, sys

    class Interrupting(type(sys.stdout)):
        @property
        def softspace(self):  # IPython reads it after the last statement of a cell
            signal.raise_signal(signal.SIGINT)
            raise AttributeError

    sys.stdout.__class__ = Interrupting
    """
    async with run_kernel("pyimport/kernel") as kernel:
        (await kernel.execute(textwrap.dedent(code))).raise_for_error()
        for number in range(100):
            assert (await kernel.execute(str(number))).text == str(number)


async def test_interrupt_at_the_begin_of_a_request_is_ignored() -> None:
    code = """
    import signal

    kernel = get_ipython().kernel

    class Interrupting(type(kernel)):
        @property
        def saved_sigint_handler(self):
            return signal.SIG_IGN

        @saved_sigint_handler.setter
        def saved_sigint_handler(self, handler):  # while another handler is set for the request
            signal.raise_signal(signal.SIGINT)

    kernel.__class__ = Interrupting
    """
    async with run_kernel("pyimport/kernel") as kernel:
        (await kernel.execute(textwrap.dedent(code))).raise_for_error()
        for number in range(3):
            assert (await kernel.execute(str(number))).text == str(number)


async def test_interrupts_strike_the_expressions_after_the_code() -> None:
    async with run_kernel("pyimport/kernel") as kernel:
        await kernel.execute("import time")
        expression = "print('begun', flush=True) or time.sleep(60)"
        execution = kernel.execute("", user_expressions={"x": expression})
        await anext(execution)
        await execution.interrupt()
        assert (await execution).user_expressions["x"]["ename"] == "KeyboardInterrupt"


async def test_trio_in_the_code_handles_interrupts_by_itself() -> None:
    code = """
    import signal, trio

    async def main():
        handlers.append(signal.getsignal(signal.SIGINT))
        print(trio.lowlevel.currently_ki_protected(), flush=True)
        await trio.sleep(60)

    handlers = []
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        print(handlers[0].__module__.partition(".")[0])
    """
    async with run_kernel("pyimport/kernel") as kernel:
        execution = kernel.execute(textwrap.dedent(code))
        await anext(execution)
        await execution.interrupt()
        result = (await execution).raise_for_error()
    assert result.stdout == "False\ntrio\n"


async def test_usual_arguments_are_parsed_as_by_traitlets() -> None:
    code = """
    from ipykernel.kernelapp import IPKernelApp

    app, other = IPKernelApp.instance(), IPKernelApp()
    other.parse_command_line(app.argv)
    [
        repr(getattr(app, name)) == repr(getattr(other, name))
        for name in ("argv", "cli_config", "extra_args", "connection_file")
    ]
    """
    async with run_kernel("pyimport/kernel") as kernel:
        result = await kernel.execute(textwrap.dedent(code))
    assert result.raise_for_error().text == "[True, True, True, True]"


async def test_options_reach_it() -> None:
    options = {"extra_arguments": ["--InteractiveShell.xmode=Plain"]}
    async with run_kernel("pyimport/kernel", launch_params=options) as kernel:
        result = await kernel.execute("get_ipython().InteractiveTB.mode")
    assert result.text == "'Plain'"
