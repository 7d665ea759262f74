from __future__ import annotations

import base64
from typing import Any

import pytest

from kernelproto.mcp.rendering import Media, cut, decode_part, plain_text, render
from kernelproto.wire.content import DisplayData, ErrorOutput, ExecuteResult, Stream

PIXEL = base64.b64encode(b"\x89PNG").decode()


def result(**data: Any) -> ExecuteResult:
    return ExecuteResult(data={name.replace("_", "/"): value for name, value in data.items()})


def test_text_has_everything_in_order() -> None:
    rendered = render(
        [
            Stream("stdout", "a\n"),
            Stream("stdout", "b\n"),
            Stream("stderr", "warning\n"),
            result(text_plain="42"),
            ErrorOutput("E", "v", ["\x1b[31mTraceback\x1b[0m", "E: v"]),
        ]
    )
    assert rendered == ("a\nb\n[stderr]\nwarning\n42\nTraceback\nE: v", [])


def test_image_replaces_its_text() -> None:
    figure = DisplayData(data={"text/plain": "<Figure>", "image/png": PIXEL[:4] + "\n" + PIXEL[4:]})
    rendered = render([Stream("stdout", "before"), figure, Stream("stdout", "after")])
    assert rendered == ("before\n[image 1]\nafter", [Media("image/png", b"\x89PNG")])


def test_table_is_text_and_html() -> None:
    rendered = render([result(text_plain="a  b", text_html="<table>")])
    assert rendered == ("a  b\n[table or page 1]", [Media("text/html", b"<table>")])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"text/markdown": "*a*"}, "*a*"),
        ({"application/json": {"a": [1]}}, '{"a": [1]}'),
        ({"application/unknown": "x"}, ""),
        ({"image/png": "not base64!"}, "[an output of type image/png that cannot be decoded]"),
        ({"image/png": ["a", "list"]}, ""),
    ],
)
def test_other_formats(data: dict[str, Any], text: str) -> None:
    rendered = render([DisplayData(data=data)])
    assert (rendered.text.strip(), rendered.media) == (text, [])


def test_error_without_traceback() -> None:
    assert render([ErrorOutput("E", "v")]).text == "E: v"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://a\x07link\x1b]8;;\x1b\\", "link"),
        ("a\r\nb", "a\nb"),
        ("10 %\r20 %\r30 %\nend", "30 %\nend"),
        ("10 %\r20 %\r", "20 %"),
        ("\ud800", "\\ud800"),
    ],
)
def test_plain_text(written: str, read: str) -> None:
    assert plain_text(written) == read


def test_cut_text_keeps_both_ends() -> None:
    assert cut("0123456789", 5) == ("012", "89", 5)
    assert cut("0123456789", 10) == ("0123456789", "", 0)


@pytest.mark.parametrize(
    ("data", "at_end", "text"),
    [
        ("é".encode(), True, "é"),
        ("aé".encode()[:-1], False, "a"),
        ("aé".encode()[:-1], True, None),
        ("é".encode()[:1], False, None),
        (b"a\xffb", False, None),
        (b"a\0b", True, None),
        (b"", True, ""),
    ],
)
def test_part_of_a_file_as_text(data: bytes, at_end: bool, text: str | None) -> None:
    assert decode_part(data, at_end=at_end) == text
