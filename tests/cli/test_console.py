from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernelproto import run_kernel_blocking

pytestmark = pytest.mark.usefixtures("no_leaks")

KERNEL = "pyimport/kernel"

STUBBORN = """\
import time
while True:
    try:
        print("running")
        time.sleep(600)
    except KeyboardInterrupt:
        print("so what")
"""

CTRL_C = "\x03"
CTRL_D = "\x04"
TAB = "\t"


def test_conversation(terminal) -> None:
    """Each line is typed when there is a prompt for it; how it looks is for people to say."""
    console = terminal("console", KERNEL, TERM="xterm")

    console.until("In [1]")
    # All at once, like a paste: incomplete code continues in the next line.
    console.type("def double(x):\rreturn x + x\r\rdouble(21)\r")
    console.until("Out[2]:")
    console.until("42")
    console.until("In [3]")

    console.type("double?\r")
    console.until("Signature:")
    console.until("In [3]")

    console.type("doub" + TAB)
    console.until("le")
    console.type("(input('wh' + 'o? '))\r")
    console.until("who?")
    console.type("ada\r")
    console.until("adaada")
    console.until("In [4]")

    console.type("print('running'); import time; time.sleep(600)\r")
    console.until("running\r\n")
    console.type(CTRL_C)
    console.until("KeyboardInterrupt")
    console.until("In [5]")

    console.type("nonsense" + CTRL_C)
    console.until("In [5]")

    console.type("input('wh' + 'at? ')\r")
    console.until("what?")
    console.type(CTRL_C)
    console.until("KeyboardInterrupt")
    console.until("In [6]")

    console.type("import os; os._exit(3)\r")
    console.until("the kernel died: exit status 3; restarting it")
    console.until("In [1]")
    console.type("'double' in globals()\r")
    console.until("False")
    console.until("In [2]")

    console.type("exit\r")
    assert console.end() == 0


@pytest.fixture
def running(runtime_dir) -> Iterator[str]:
    with run_kernel_blocking("pyimport/kernel") as kernel:
        kernel.execute("x = 6 * 7")
        yield kernel.kernel_id
        assert kernel.execute("y").text == "'from the console'"


def test_kernel_that_runs_already(running: str, terminal) -> None:
    console = terminal("console", "--existing", running, TERM="xterm")

    console.until("In:")
    console.type("x\r")
    console.until("Out[2]: 42")
    console.type("y = 'from the console'\r")
    console.until("In [4]")
    console.type(CTRL_D)
    console.until("The kernel keeps running.")
    assert console.end() == 0


def test_kernel_that_cannot_be_interrupted(terminal) -> None:
    console = terminal("console", KERNEL, TERM="xterm")

    console.until("In [1]")
    console.type(f"exec({STUBBORN!r})\r")
    console.until("running\r\n")
    console.type(CTRL_C)
    console.until("so what")
    console.until("running\r\n")
    console.type(CTRL_C)
    console.until("Ctrl-C again ends the console")
    console.type(CTRL_C)
    assert console.end() == 130
