from __future__ import annotations

import pytest

from kernelproto import KernelDied, KernelExitedEarly
from kernelproto.cli.errors import CliError, describe, need
from kernelproto.cli.main import main
from kernelproto.extras import EXTRAS


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nonsense"], "error: No such command 'nonsense'. (see kernelproto --help)"),
        (["list", "--nonsense"], "No such option: --nonsense (see kernelproto list --help)"),
        (["notebook"], "Missing argument 'IN.ipynb'. (see kernelproto notebook --help)"),
    ],
)
def test_usage_errors_are_one_line(words: list[str], line: str, capsys) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert line in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run"], "give the code as FILE, as - for standard input, or as -c CODE"),
        (["run", "no/such/file"], "no/such/file: No such file or directory"),
        (["run", "/"], "/: Is a directory"),
        (["run", "a.ipynb"], "a.ipynb is a notebook; use `kernelproto notebook a.ipynb`"),
        (["run", "-k", "pyimport/karnel", "-c", "1"], "no kernel type 'pyimport/karnel'; there "),
        (["run", "pyimport/kernel", "-c", "1"], "use `kernelproto run -k pyimport/kernel`"),
        (["stop"], "name the kernels to stop, or use --all or --kept; `kernelproto ps` lists them"),
        (["stop", "1"], "no running kernel matches '1'; `kernelproto ps` lists them"),
        (["console"], "the console needs a terminal; use `kernelproto run` without one"),
        (["serve", "--port", "x"], "port on the command line: "),
        (["notebook", "a.ipynb", "-o", "no/b.ipynb"], "the folder no does not exist"),
        (["notebook", "a.ipynb", "-p", "x"], "parameter 'x' must have the form NAME=VALUE"),
    ],
)
def test_errors_are_one_line(words: list[str], line: str, capsys) -> None:
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert line in err


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


def test_verbose_shows_where_an_error_comes_from(kernelproto) -> None:
    done = kernelproto("stop", "1", "--verbose")
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith(
        "error: no running kernel matches '1'; `kernelproto ps` lists them\n"
    )
