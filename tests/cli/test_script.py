from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from kernelproto.cli.errors import CliError
from kernelproto.cli.script import Script, other_language, read_script


def test_code_on_the_command_line_has_all_words_as_arguments() -> None:
    script = read_script("a.py", ["b"], "1")
    assert script == Script(code="1", argv=["-c", "a.py", "b"])
    assert not script.from_stdin


def test_file(tmp_path: Path, monkeypatch) -> None:
    tmp_path.joinpath("a.py").write_bytes(b"\xef\xbb\xbf1")
    monkeypatch.chdir(tmp_path)
    script = read_script("a.py", ["b"], None)
    assert script == Script(code="1", argv=["a.py", "b"], file=str(tmp_path / "a.py"))


def test_standard_input(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1")))
    script = read_script("-", ["b"], None)
    assert script == Script(code="1", argv=["-", "b"])
    assert script.from_stdin


def test_no_code() -> None:
    with pytest.raises(CliError, match="give the code as FILE"):
        read_script(None, [], None)


@pytest.mark.parametrize("first", ["", "/somewhere"])
def test_setup_replaces_only_the_entry_of_the_working_directory(first: str, tmp_path) -> None:
    """In an interpreter of its own, as the setup changes that interpreter."""
    file = tmp_path / 'a"{arguments}\udce9.py'
    script = Script(code="", argv=[str(file), "\N{SNOWMAN}"], file=str(file))
    program = (
        f"import sys; sys.path[:1] = [{first!r}, '/next']\n"
        f"exec({script.setup!r}, space := {{}})\n"
        "print(ascii([sys.argv, sys.path[:2], space['__file__'], sorted(space)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    path = [str(tmp_path), first or "/next"]
    names = ["__builtins__", "__file__", "exit", "quit"]
    assert done.stdout.strip() == ascii([list(script.argv), path, str(file), names])


@pytest.mark.parametrize(
    ("file", "language"),
    [(None, None), ("a.py", None), ("a", None), ("a.R", "R"), ("b.d/a.sh", "shell")],
)
def test_language_of_a_file(file: str | None, language: str | None) -> None:
    assert other_language(file) == language
