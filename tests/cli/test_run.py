from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SHARE = str(Path(__file__).parents[1] / "integration" / "share")

pytestmark = pytest.mark.usefixtures("no_leaks")

# One kernel shows what several tests ask for.
EVERYTHING = """\
import sys
print("to stdout")
print("to stderr", file=sys.stderr)
from IPython.display import Image, SVG, display
display(Image(b"\\x89PNG\\r\\n\\x1a\\n-made-up", format="png"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'/>"))
print(input("name? ") + "!", input("and? "))
6 * 7
"""


def test_outputs_go_where_they_belong(kernelproto, tmp_path: Path) -> None:
    images = tmp_path / "images"
    file = tmp_path / "code.py"
    file.write_text("\N{BYTE ORDER MARK}" + EVERYTHING, "utf-8")

    done = kernelproto("run", "--images", str(images), str(file), stdin="ada\nno\nmore")

    png, svg = images / "image-1.png", images / "image-2.svg"
    assert done.stdout.splitlines() == [
        "to stdout",
        f"image/png: {png}",
        f"image/svg+xml: {svg}",
        "ada! no",
        "42",
    ]
    assert done.stderr.splitlines() == ["to stderr", "name? and? "]
    assert done.returncode == 0
    assert png.read_bytes() == b"\x89PNG\r\n\x1a\n-made-up"
    assert svg.read_text().startswith("<svg")


SHOWS_ITS_SURROUNDINGS = """
import sys, beside
print(sys.argv[1:], __file__ == sys.argv[0], __name__, beside.__file__)
exit(int(sys.argv[1]))
print("not reached")
"""


def test_file_sees_what_it_sees_under_python(kernelproto, tmp_path: Path) -> None:
    file, beside = tmp_path / "it's here.py", tmp_path / "beside.py"
    file.write_text(SHOWS_ITS_SURROUNDINGS)
    beside.touch()

    done = kernelproto("run", "-k", "fork/kernel", str(file), "4", "-c", "-v", "caf\u00e9")

    plain = subprocess.run(
        [sys.executable, file, "4", "-c", "-v", "caf\u00e9"], capture_output=True, text=True
    )
    assert plain.stdout
    assert (done.stdout, done.stderr, done.returncode) == (plain.stdout, plain.stderr, 4)


def test_arguments_of_code_without_a_file(kernelproto) -> None:
    code = "import sys; print(sys.argv)"
    assert kernelproto("run", "-c", code, "a", "-b").stdout == "['-c', 'a', '-b']\n"
    assert kernelproto("run", "-", "a", stdin=code).stdout == "['-', 'a']\n"


def test_arguments_for_another_language_are_refused(kernelproto, runtime_dir) -> None:
    done = kernelproto("run", "-k", "spec/scripted", "-c", "", "a", JUPYTER_PATH=SHARE)
    assert done.stderr == (
        "error: only Python code can be given arguments; spec/scripted runs another language\n"
    )
    assert done.returncode == 1


def test_error_without_colours(kernelproto) -> None:
    done = kernelproto("run", "-", stdin="print('before')\n1/0")

    assert done.stdout == "before\n"
    assert done.stderr.endswith("\nZeroDivisionError: division by zero\n")
    assert "\x1b" not in done.stderr
    assert done.returncode == 1


LOSES_ITS_REPLY = """
print("before", flush=True)
session = get_ipython().kernel.session
send = session.send
session.send = lambda stream, what, *args, **options: (
    None if what == "execute_reply" else send(stream, what, *args, **options)
)
"""


def test_lost_reply_is_an_error(kernelproto) -> None:
    done = kernelproto("run", "-", stdin=LOSES_ITS_REPLY)

    assert done.stdout == "before\n"
    assert "error: the kernel executed the code and sent no reply" in done.stderr
    assert done.returncode == 1


def test_code_that_came_through_stdin_gets_no_answers(kernelproto) -> None:
    done = kernelproto("run", "-", stdin="input('who? ')")

    assert "EOFError" in done.stderr
    assert done.returncode == 1


def test_questions_and_colours_at_a_terminal(terminal) -> None:
    code = (
        "import getpass\n"
        "name = input('who? ')\n"
        "print(getpass.getpass('password: ') + ' is it')\n"
        "raise ValueError(name)"
    )
    screen = terminal("run", "-c", code)

    screen.until("who? ")
    screen.type("ada\n")
    screen.until("password: ")
    screen.type("secret\n")
    screen.until("secret is it")  # for the first time: it was not shown while it was typed
    assert screen.end() == 1
    assert screen.text.count("secret") == 1
    assert "\x1b[" in screen.written.partition("secret")[2]


def test_no_colours_with_no_color(terminal) -> None:
    screen = terminal("run", "-c", "1/0", NO_COLOR="1")

    assert screen.end() == 1
    assert "ZeroDivisionError" in screen.written
    assert "\x1b" not in screen.written


def test_first_interrupt_is_for_the_code(terminal) -> None:
    code = (
        "import time\n"
        "try:\n"
        "    print('running', flush=True); time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')"
    )
    screen = terminal("run", "-c", code)

    screen.until("running")
    screen.type("\x03")
    screen.until("interrupted")
    assert screen.end() == 0


def test_interrupt_while_the_code_waits_for_an_answer(terminal) -> None:
    screen = terminal("run", "-c", "input('who? ')")

    screen.until("who? ")
    screen.type("\x03")
    screen.until("KeyboardInterrupt")
    assert screen.end() == 130


def test_second_interrupt_ends_the_kernel(terminal) -> None:
    code = (
        "import time\n"
        "while True:\n"
        "    try:\n"
        "        print('running', flush=True); time.sleep(600)\n"
        "    except KeyboardInterrupt:\n"
        "        print('so what', flush=True)"
    )
    screen = terminal("run", "-c", code)

    screen.until("running")
    screen.type("\x03")
    screen.until("so what")
    screen.type("\x03")
    assert screen.end() == 130


def test_sigterm_shuts_the_kernel_down(terminal) -> None:
    screen = terminal("run", "-c", "print('running', flush=True); input('')")

    screen.until("running")
    screen.process.send_signal(signal.SIGTERM)
    assert screen.end() == 128 + signal.SIGTERM


def test_kernel_that_dies(kernelproto) -> None:
    done = kernelproto("run", "-c", "import os; os._exit(3)")

    assert done.stderr == "error: the kernel died: exit status 3\n"
    assert done.returncode == 1


def test_reader_that_closes_the_pipe(kernelproto, deaf_pipe: int) -> None:
    done = kernelproto("run", "-c", "for i in range(9): print(i)", stdout=deaf_pipe)

    assert done.stderr == ""
    assert done.returncode == 141


def test_dry_run_prints_the_plan_and_starts_nothing(kernelproto, tmp_path: Path) -> None:
    folder = tmp_path / "kernels" / "calc"
    folder.mkdir(parents=True)
    kernelspec = {
        "argv": ["calc", "-f", "{connection_file}"],
        "env": {"HUB_TOKEN": "s3cret", "LEVEL": "${HOME}"},
    }
    folder.joinpath("kernel.json").write_text(json.dumps(kernelspec))

    done = kernelproto("run", "-k", "calc", "--dry-run", JUPYTER_PATH=str(tmp_path), INHERITED="1")

    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert plan["provider"] == "spec"
    assert plan["kernel_type"] == "spec/calc"
    assert plan["argv"] == kernelspec["argv"]
    assert plan["env"] == {"HUB_TOKEN": "***", "LEVEL": "${HOME}"}
    assert plan["cwd"] == os.getcwd()
    assert (plan["transport"], plan["encrypted"], plan["limits"]) == ("tcp", False, None)


def test_dry_run_of_no_kernel_type(kernelproto) -> None:
    done = kernelproto("run", "-k", "calc", "--dry-run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no kernel type 'calc'; there are ")


@pytest.mark.parametrize(
    ("argument", "status", "text"),
    [("", 0, ""), ("3", 3, ""), ("'no'", 1, "no\n"), ("-1", 255, "")],
)
def test_exit_status_is_that_of_the_code(
    kernelproto, argument: str, status: int, text: str
) -> None:
    done = kernelproto("run", "-c", f"import sys; sys.exit({argument})")
    assert (done.returncode, done.stdout, done.stderr) == (status, "", text)


@pytest.mark.skipif(sys.platform != "linux", reason="sandboxes work on Linux only")
def test_dry_run_prints_the_sandbox(kernelproto) -> None:
    done = kernelproto(
        "run", "-k", "pyimport/kernel", "--dry-run", "--sandbox", '{"network": "loopback"}'
    )

    plan = json.loads(done.stdout)
    assert plan["sandbox"]["network"] == "loopback"
    assert plan["cwd"] is None  # the home folder of the sandbox
    assert plan["transport"] == "ipc"


@pytest.mark.parametrize(
    ("sandbox", "reason"),
    [
        ("{", "--sandbox must be JSON"),
        ('{"firewall": "on"}', "unknown field `firewall`"),
        ('{"network": "some"}', "must be a mapping"),
    ],
)
def test_a_sandbox_with_wrong_settings_is_refused(kernelproto, sandbox: str, reason: str) -> None:
    done = kernelproto("run", "-k", "pyimport/kernel", "--sandbox", sandbox, "-c", "1")

    assert done.returncode != 0
    assert reason in done.stderr
