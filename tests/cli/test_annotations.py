from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nbformat import v4

from kernelproto.cli.annotations import CellPlaces, in_actions, print_annotation
from kernelproto.cli.locations import STANDARD
from kernelproto.notebook import CellFinished
from kernelproto.wire.content import ErrorOutput


def test_in_actions(monkeypatch) -> None:
    assert not in_actions()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert in_actions()


def test_text_is_escaped(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    source = tmp_path / "100%,a:b.ipynb"

    print_annotation("error", "50%\r\n::stop\x1b", source=source, title="a,b::c\n", line=3)

    assert capsys.readouterr().err == (
        "::error file=100%25%2Ca%3Ab.ipynb,line=3,title=a%2Cb%3A%3Ac%0A::50%25%0D%0A::stop\n"
    )


@pytest.mark.parametrize("source", [STANDARD, "https://host/a.ipynb"])
def test_notebook_without_a_file(capsys, source) -> None:
    print_annotation("warning", "text", source=source, title="title")

    assert capsys.readouterr().err == "::warning title=title::text\n"


def test_file_outside_the_repository(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "repository"))

    print_annotation("error", "x" * 9000, source=tmp_path / "a.ipynb", title="title")

    line = capsys.readouterr().err
    assert line.startswith(f"::error file={tmp_path / 'a.ipynb'},title=title::...xxx")
    assert len(line) < 8200


def failed(*traceback: str, count: int = 2) -> CellFinished:
    error = ErrorOutput("E", "e", list(traceback))
    return CellFinished(
        index=0,
        number=1,
        total=1,
        status="error",
        duration=0,
        execution_count=count,
        error=error,
    )


def test_line_of_the_error(tmp_path: Path) -> None:
    cells: list[Any] = [v4.new_code_cell("first"), v4.new_code_cell("a\nb\nc")]
    path = tmp_path / "a.ipynb"
    path.write_text(v4.writes(v4.new_notebook(cells=cells)))
    lines = path.read_text().splitlines()
    (first,) = (number for number, line in enumerate(lines, 1) if '"a\\n"' in line)
    places = CellPlaces(path, cells)

    assert places.line(cells[1], failed("no line")) == first
    traceback = failed("\x1b[0;32mCell In[2], line 3\x1b[0m", "Cell In[1], line 1")
    assert places.line(cells[1], traceback) == first + 2
    assert places.line(cells[1], failed("Cell In[2], line 99")) == first + 2
    assert places.line(v4.new_code_cell("injected"), failed()) is None
    assert CellPlaces(STANDARD, cells).line(cells[0], failed()) is None
