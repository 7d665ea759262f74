from __future__ import annotations

import pytest

from kernelproto.cli.progress import Progress, column_widths


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (20, (5, 5, 0)),
        (50, (25, 6, 0)),
        (80, (40, 12, 0)),
        (120, (40, 20, 40)),
        (300, (40, 30, 40)),
    ],
)
def test_widths_of_columns(width: int, widths: tuple[int, int, int]) -> None:
    assert column_widths(width) == widths


@pytest.mark.parametrize("width", [30, 50, 80, 120])
def test_numbers_are_shown_at_any_width(width: int, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress() as progress:
        bar = progress.begin("a/folder/with/a/long/name/notebook.ipynb")
        progress.show(bar, 12, 345, "code = 'that is far too long for a narrow terminal'\nmore")
    text = capsys.readouterr().err
    assert "book.ipynb" in text or width == 30
    assert "12/345" in text
    assert "0:00:00" in text
    assert ("code =" in text) == (width == 120)
