from __future__ import annotations

from kernelproto.cli.output_log import OutputLog
from kernelproto.wire.content import ClearOutput, DisplayData, ErrorOutput, Stream


def test_each_line_has_the_name_of_the_notebook(capsys) -> None:
    log = OutputLog("a.ipynb")
    for text in ("one\ntw", "o\n\n 10%\r 20%\r\n", "\x1b[31mred\x1b[0m\tand \x07"):
        log.write(Stream("stdout", text))
    assert capsys.readouterr().err.splitlines() == [
        "a.ipynb | one",
        "a.ipynb | two",
        "a.ipynb |",
        "a.ipynb |  10%",
        "a.ipynb |  20%",
    ]

    log.write(ErrorOutput("Oops", "", ["\x1b[31mTraceback\x1b[0m", "Oops: on\npurpose"]))
    open_line, *traceback = capsys.readouterr().err.splitlines()
    assert open_line.startswith("a.ipynb | red     and ")
    assert "\x07" not in open_line
    assert traceback == ["a.ipynb | Traceback", "a.ipynb | Oops: on", "a.ipynb | purpose"]


def test_displays_are_shown_as_text_or_by_their_types(capsys) -> None:
    log = OutputLog("a.ipynb")
    log.write(DisplayData({"text/plain": "x\ny", "text/html": "<b>"}))
    log.write(DisplayData({"image/png": "AAAA", "image/svg+xml": "<svg/>"}))
    log.write(ClearOutput(False))
    log.end_line()
    assert capsys.readouterr().err.splitlines() == [
        "a.ipynb | x",
        "a.ipynb | y",
        "a.ipynb | image/png, image/svg+xml",
    ]


def test_line_without_an_end_is_printed_in_parts(capsys) -> None:
    log = OutputLog("a")
    for _ in range(10):
        log.write(Stream("stdout", "x" * 1000))
    assert [len(line) for line in capsys.readouterr().err.splitlines()] == [4 + 4096] * 2
    log.end_line()
    assert len(capsys.readouterr().err) == 4 + 10_000 - 2 * 4096 + 1
