"""Lines of the log."""

from __future__ import annotations

import json
import logging

import pytest

from kernelproto.log_fields import logging_about
from kernelproto.server.logs import JsonLines, TextLines


def record(message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("kernelproto.pool", logging.WARNING, "", 1, message, args, exc_info)


def test_json_has_what_it_is_about() -> None:
    with logging_about(kernel_id="1", user="ada"):
        line = json.loads(JsonLines().format(record("a kernel %s", "fails")))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "kernelproto.pool",
        "message": "a kernel fails",
        "kernel_id": "1",
        "user": "ada",
    }


@pytest.mark.parametrize("text", ["two\nlines", "\ud800", '"', "\N{SNOWMAN}"])
def test_json_is_one_line_whatever_is_said(text: str) -> None:
    line = JsonLines().format(record("%s", text))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == text


def test_json_has_the_traceback() -> None:
    line = json.loads(JsonLines().format(record("it has failed", error=ValueError("why"))))
    assert "ValueError: why" in line["exception"]


def test_text_has_what_it_is_about_at_its_end() -> None:
    with logging_about(user="a\nb"):
        first, *traceback = (
            TextLines().format(record("it fails", error=ValueError("why"))).splitlines()
        )
    assert first.endswith("WARNING kernelproto.pool it fails user='a\\nb'")
    assert traceback[-1] == "ValueError: why"
    assert TextLines().format(record("it fails")).endswith("it fails")
