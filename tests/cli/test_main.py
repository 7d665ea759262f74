from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kernelproto.cli.main
from kernelproto import KernelDied, KernelExitedEarly
from kernelproto.cli.errors import CliError, describe, need
from kernelproto.cli.main import main
from kernelproto.extras import EXTRAS

COMMANDS = ["list", "run", "notebook", "console", "ps", "stop", "serve", "bench", "doctor"]


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_names_every_command(words: list[str], capsys) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert [
        line.split()[0] for line in out.partition("Commands:")[2].split("\n") if line
    ] == COMMANDS
    assert "\x1b" not in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys) -> None:
    status = None
    try:
        status = main([command, "--help"])
    except SystemExit as end:  # the server's own help
        status = end.code
    out = capsys.readouterr().out
    assert status == 0
    assert "usage:" in out.lower()
    assert "--help" in out


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("run", "[OPTIONS] {KERNEL} [FILE]"),
        ("notebook", "[OPTIONS] {IN.ipynb}..."),
        ("console", "[OPTIONS] [KERNEL]"),
        ("stop", "[OPTIONS] [KERNEL]..."),
    ],
)
def test_usage_shows_what_may_be_left_out(command: str, usage: str, capsys) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: kernelproto {command} {usage}\n")


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kernelproto {kernelproto.__version__}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nonsense"], "error: No such command 'nonsense'. (see kernelproto --help)"),
        (["list", "--nonsense"], "No such option: --nonsense (see kernelproto list --help)"),
        (["run"], "Missing argument 'KERNEL'. (see kernelproto run --help)"),
    ],
)
def test_misuse_is_told_in_one_line(words: list[str], line: str, capsys) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert line in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run", "k"], "give the code as FILE, as - for standard input, or as -c CODE"),
        (["run", "k", "a.py", "-c", "1"], "give the code as FILE"),
        (["run", "k", "no/such/file"], "no/such/file: No such file or directory"),
        (["run", "k", "a.ipynb"], "a.ipynb is a notebook; use `kernelproto notebook a.ipynb`"),
        (["run", "pyimport/karnel", "-c", "1"], "no kernel type 'pyimport/karnel'; there are "),
        (["stop"], "name the kernels to stop, or use --all; `kernelproto ps` lists them"),
        (["stop", "1"], "no running kernel matches '1'; `kernelproto ps` lists them"),
        (["console"], "the console needs a terminal; use `kernelproto run` without one"),
        (["serve", "--port", "x"], "port on the command line: "),
        (["notebook", "a.ipynb", "-o", "no/b.ipynb"], "the folder no does not exist"),
        (["notebook", "a.ipynb", "-p", "x"], "parameter 'x' must have the form NAME=VALUE"),
    ],
)
def test_errors_are_told_in_one_line(words: list[str], line: str, capsys) -> None:
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert line in err


def test_file_that_is_no_text(tmp_path, capsys) -> None:
    file = tmp_path / "code"
    file.write_bytes(b"ab\xff")
    assert main(["run", "k", str(file)]) == 1
    assert capsys.readouterr().err == f"error: {file} is not UTF-8 text: invalid byte 2\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KernelDied("it died\ncommand: x\nand more"), "it died"),
        (KernelExitedEarly("it ended\nand more", stderr="a\n  b: c\n\n"), "it ended: b: c"),
        (CliError("not\x1b[31m so"), "not?[31m so"),
        (FileNotFoundError(2, "No such file", "name"), "name: No such file"),
        (ValueError("a\nb"), "ValueError: a?b"),
    ],
)
def test_any_error_in_one_line(error: Exception, line: str) -> None:
    assert describe(error) == line


def test_missing_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(EXTRAS, "server", ("anyio", "no_such", "nor_this"))
    with pytest.raises(CliError) as caught:
        need("server")
    advice = 'pip install "kernelproto[server]"'
    assert str(caught.value) == f"no_such, nor_this cannot be imported: {advice}"


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"]
    for extra, names in EXTRAS.items():
        brought = {re.split(r"[>\[]", line)[0] for line in lines.pop(extra)}
        brought = {{"PyJWT": "jwt"}.get(name, name) for name in brought}
        assert brought == ({"anyio"} if extra == "trio" else set(names))  # which asks for trio
    assert set(lines) == {"all"}


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
        "sys.exit(main(['run', 'pyimport/kernel', '-c', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.endswith("(for Python: pip install ipykernel)\n")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 1


def test_verbose_shows_where_an_error_comes_from(kernelproto) -> None:
    done = kernelproto("stop", "1", "--verbose")
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith(
        "error: no running kernel matches '1'; `kernelproto ps` lists them\n"
    )


def test_list(kernelproto) -> None:
    done = kernelproto("list")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["NAME", "DISPLAY", "NAME", "LANGUAGE"]
    assert "pyimport/kernel" in [line.split()[0] for line in lines]
    assert "pyimport/kernel" in json.loads(kernelproto("list", "--json").stdout)


def test_reader_that_has_seen_enough(kernelproto, deaf_pipe: int) -> None:
    done = kernelproto("list", stdout=deaf_pipe)
    assert (done.stderr, done.returncode) == ("", 141)


def test_without_standard_streams() -> None:
    program = [sys.executable, "-m", "kernelproto", "list"]
    for closed in ("<&-", ">&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" "$@" {closed}', *program], capture_output=True, text=True
        )
        assert (done.stderr, done.returncode) == ("", 0)


def test_what_a_terminal_does_not_know_is_spelled_out(kernelproto) -> None:
    done = kernelproto("run", "\N{SNOWMAN}", "-c", "1", PYTHONIOENCODING="ascii")
    assert done.stderr.startswith(r"error: no kernel type '\u2603'")


def test_table_at_a_terminal_has_a_header_in_bold(terminal) -> None:
    screen = terminal("list")
    assert screen.end() == 0
    assert "\x1b[1mNAME" in screen.written


def test_names_of_kernel_types_are_completed() -> None:
    env = os.environ | {
        "_KERNELPROTO_COMPLETE": "complete_bash",
        "COMP_WORDS": "kernelproto run pyimp",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "kernelproto"], env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == ["pyimport/kernel"]
