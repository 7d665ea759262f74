"""Parameters of ``kernelproto notebook``, from files and the command line."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from kernelproto.cli.main import main

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Give a notebook with parameters."""
    v4 = nbformat.v4
    defaults = 'year = 2000  # of the report\nregion: str = "all"\nnames = [\n  1,\n]'
    cells = [
        v4.new_code_cell(defaults, metadata={"tags": ["parameters"]}),
        v4.new_code_cell("print(year, region, names)"),
    ]
    path = tmp_path / "report.ipynb"
    path.write_text(nbformat.writes(v4.new_notebook(cells=cells)))
    return path


def printed(path: Path) -> str:
    return nbformat.read(path, 4)["cells"][-1]["outputs"][0]["text"]


def test_files_come_before_the_command_line(report: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "a.yaml").write_text("year: 1\nregion: no one\n")
    (tmp_path / "b.json").write_text('{"year": 2, "names": ["x"]}')
    words = ["-f", str(tmp_path / "a.yaml"), "-f", str(tmp_path / "b.json"), "-p", "year=3"]

    assert main(["notebook", str(report), "--strict", *words]) == 0
    assert "warning" not in capsys.readouterr().err
    assert printed(report) == "3 no one ['x']\n"


def test_unknown_parameter(report: Path, capsys) -> None:
    words = ["notebook", str(report), "-p", "years=1"]
    problem = (
        f'{report}: the cell tagged "parameters" does not assign years (did you mean year?); it '
        "assigns year, region, names"
    )

    assert main([*words, "--strict"]) == 1
    assert f"error: {problem}\n" in capsys.readouterr().err
    assert nbformat.read(report, 4)["cells"][-1]["outputs"] == []

    assert main(words) == 0
    assert f"warning: {problem}\n" in capsys.readouterr().err
    assert printed(report) == "2000 all [1]\n"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("missing.yaml", None, "missing.yaml: No such file or directory"),
        ("p.yaml", "year: yes", "p.yaml, line 1, column 7: write true or false instead of yes"),
    ],
)
def test_file_without_parameters(report: Path, tmp_path: Path, capsys, name, text, reason) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)

    assert main(["notebook", str(report), "-f", str(path)]) == 1
    assert reason in capsys.readouterr().err


def test_help_of_parameters(report: Path, tmp_path: Path, capsys) -> None:
    assert main(["notebook", str(report), "--help-parameters"]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "NAME    TYPE  DEFAULT  COMMENT",
        "year    int   2000     of the report",
        'region  str   "all"',
        "names   list  [ 1, ]",
    ]
    other = tmp_path / "other.ipynb"
    other.write_bytes(report.read_bytes())
    assert main(["notebook", str(report), str(other), "--help-parameters"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[5], lines[6]] == [str(report), "", str(other)]


def test_help_without_parameters(tmp_path: Path, capsys) -> None:
    path = tmp_path / "plain.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook()))

    assert main(["notebook", str(path), "--help-parameters"]) == 1
    assert capsys.readouterr().err == f'error: {path}: no cell is tagged "parameters"\n'
