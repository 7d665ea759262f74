from __future__ import annotations

import json
import os
import re
import shutil
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
CTRL_Z = "\x1a"
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

    console.type("(doub" + TAB)  # the parenthesis: no earlier code is suggested
    console.until("le")
    console.type(")(input('wh' + 'o? '))\r")
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

    # At the prompt, the user is told of the death at once, and keeps the typed text.
    console.type("import os, threading; threading.Timer(0.2, os._exit, [4]).start()\r")
    console.until("In [")
    console.type("exi")
    console.until("the kernel died: exit status 4; restarting it")
    console.until("In [1]: exi")
    console.type("t\r")
    assert console.end() == 0


def test_cell_magic_ends_with_one_blank_line(terminal) -> None:
    console = terminal("console", KERNEL, TERM="xterm")

    console.until("In [1]")
    console.type("%%time\r")
    console.until("...:")
    console.type("6 * 7\r\r")
    console.until("Wall time")
    console.until("Out[1]: 42")
    console.until("In [2]")
    console.type("%%timei" + TAB)
    console.until("t")
    console.type(CTRL_C + "[1, None]\r")
    console.until("Out[2]: [1, None]")
    assert re.search(r"Out\[2\]:\x1b\[0m \S*\[\x1b\[\S*1\x1b", console.written)  # in colours
    console.until("In [3]")
    console.type(CTRL_D)
    assert console.end() == 0


PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4"
    "OHwAAAABJRU5ErkJggg=="
)
SHOW_PICTURE = (
    "import base64; from IPython.display import Image, display; "
    f"display(Image(base64.b64decode({PICTURE!r})))\r"
)


@pytest.mark.parametrize(
    ("env", "option", "shown"),
    [
        ({"TERM_PROGRAM": "WezTerm"}, "auto", "\x1b]1337;File=inline=1;size=85:"),
        ({"TERM_PROGRAM": "WezTerm"}, "none", "image/png: "),
        ({}, "auto", "image/png: "),
    ],
)
def test_images(terminal, env: dict[str, str], option: str, shown: str) -> None:
    console = terminal(
        "console", "fork/kernel", "--inline-images", option, **{"TERM": "xterm"} | env
    )

    console.until("In [1]")
    console.type(SHOW_PICTURE)
    console.until(shown)
    console.until("In [2]")
    console.type(CTRL_D)
    assert console.end() == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with job control")
def test_ctrl_z_suspends_the_console(terminal) -> None:
    shell = ("bash", "--norc", "-ic", '"$@"; echo suspended; fg', "bash")
    console = terminal("console", KERNEL, through=shell, TERM="xterm")

    console.until("In [1]")
    console.type("x = 'kept'\r")
    console.until("In [2]")
    console.type("print(x" + CTRL_Z)
    console.until("suspended\r\n")
    console.until("In [2]: print(x")
    console.type(" * 2)\r")
    console.until("keptkept")
    console.until("In [3]")
    console.type(CTRL_D)
    assert console.end() == 0


def test_ctrl_c_while_the_kernel_starts(terminal, tmp_path) -> None:
    folder, started = tmp_path / "kernels" / "slow", tmp_path / "started"
    folder.mkdir(parents=True)
    os.mkfifo(started)
    kernelspec = {"argv": ["sh", "-c", f"echo > {started}; sleep 600", "{connection_file}"]}
    folder.joinpath("kernel.json").write_text(json.dumps(kernelspec))
    console = terminal("console", "slow", JUPYTER_PATH=str(tmp_path))

    started.read_text()
    console.type(CTRL_C)
    assert console.end() == 130


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


def test_kernel_of_another_program_that_dies(runtime_dir, terminal) -> None:
    with run_kernel_blocking("pyimport/kernel") as kernel:
        console = terminal("console", "--existing", kernel.kernel_id, TERM="xterm")
        console.until("In:")
        kernel.shutdown()
        console.until("error: the kernel has ended; `kernelproto console` starts a new one")
        assert console.end() == 1


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
