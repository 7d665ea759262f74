from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

import kernelproto.cli.main
from kernelproto.cli.main import main

COMMANDS = [
    "list",
    "run",
    "notebook",
    "console",
    "ps",
    "stop",
    "serve",
    "mcp",
    "bench",
    "doctor",
    "kernelspec",
    "provisioner",
]


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_names_every_command(words: list[str], capsys) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert [
        line.split()[0] for line in out.partition("Commands:")[2].split("\n") if line
    ] == COMMANDS
    assert "\x1b" not in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys) -> None:
    status = None
    try:
        status = main([command, "--help"])
    except SystemExit as end:  # the server's own help
        status = end.code
    out = capsys.readouterr().out
    assert status == 0
    assert "usage:" in out.lower()
    assert "--help" in out
    assert "<str>" not in out
    assert "<list[" not in out


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("run", "[OPTIONS] [FILE] [ARGS]..."),
        ("notebook", "[OPTIONS] {IN.ipynb}..."),
        ("console", "[OPTIONS] [KERNEL]"),
        ("stop", "[OPTIONS] [KERNEL]..."),
    ],
)
def test_usage_marks_optional_arguments(command: str, usage: str, capsys) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: kernelproto {command} {usage}\n")


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kernelproto {kernelproto.__version__}\n"


def test_file_that_is_no_text(tmp_path, capsys) -> None:
    file = tmp_path / "code"
    file.write_bytes(b"ab\xff")
    assert main(["run", str(file)]) == 1
    assert capsys.readouterr().err == f"error: {file} is not UTF-8 text: invalid byte 2\n"


def test_without_the_extra() -> None:
    program = (
        "import sys; sys.modules['typer'] = None\n"
        "from kernelproto.cli.main import program; program()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    advice = 'pip install "kernelproto[cli]"'
    assert done.stderr == f"error: typer cannot be imported: {advice}\n"
    assert done.returncode == 1


def test_without_ipykernel() -> None:
    program = (
        "import importlib.util, sys\n"
        "from kernelproto.cli.main import main\n"
        "importlib.util.find_spec = lambda name, package=None: None\n"
        "sys.exit(main(['run', '-c', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.endswith("(for Python: pip install ipykernel)\n")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 1


INTERRUPTED_WHILE_IMPORTING = """
import os, signal, sys
module = sys.argv.pop()
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from kernelproto.__main__ import program
program()
"""


@pytest.mark.parametrize(
    ("module", "status"),
    [
        ("kernelproto.cli.main", -signal.SIGINT),
        ("kernelproto.cli.app", -signal.SIGINT),
        ("kernelproto.cli.list", 130),
    ],
)
def test_interrupt_while_modules_are_imported(module: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_IMPORTING, "list", module],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", status)


def test_list(kernelproto) -> None:
    done = kernelproto("list")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["NAME", "DISPLAY", "NAME", "LANGUAGE"]
    assert "pyimport/kernel" in [line.split()[0] for line in lines]
    assert "pyimport/kernel" in json.loads(kernelproto("list", "--json").stdout)


def test_reader_that_closes_the_pipe(kernelproto, deaf_pipe: int) -> None:
    done = kernelproto("list", stdout=deaf_pipe)
    assert (done.stderr, done.returncode) == ("", 141)


def test_without_standard_streams() -> None:
    program = [sys.executable, "-m", "kernelproto", "list"]
    for closed in ("<&-", ">&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" "$@" {closed}', *program], capture_output=True, text=True
        )
        assert (done.stderr, done.returncode) == ("", 0)


def test_characters_missing_in_the_encoding_are_escaped(kernelproto) -> None:
    done = kernelproto("run", "-k", "\N{SNOWMAN}", "-c", "1", PYTHONIOENCODING="ascii")
    assert done.stderr.startswith(r"error: no kernel type '\u2603'")


def test_table_at_a_terminal_has_a_header_in_bold(terminal) -> None:
    screen = terminal("list")
    assert screen.end() == 0
    assert "\x1b[1mNAME" in screen.written


def test_names_of_kernel_types_are_completed() -> None:
    env = os.environ | {
        "_KERNELPROTO_COMPLETE": "complete_bash",
        "COMP_WORDS": "kernelproto run -k pyimp",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-m", "kernelproto"], env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == ["pyimport/kernel"]


@pytest.mark.parametrize(
    ("line", "unwanted"),
    [
        ("kernelproto run -k pyimp", {"zmq", "kernelproto.client", "kernelproto.launch.launcher"}),
        ("kernelproto stop x", {"anyio", "asyncio", "zmq", "kernelproto.launch.launcher"}),
    ],
)
def test_completion_loads_only_the_modules_that_it_needs(line: str, unwanted: set[str]) -> None:
    env = os.environ | {
        "_KERNELPROTO_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kernelproto"],
        env=env,
        capture_output=True,
        text=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "kernelproto.cli.options" in loaded
    assert loaded & unwanted == set()
