"""The lines of the log, as text and as JSON."""

from __future__ import annotations

import json
import logging

import pytest

from kernelproto.exceptions import InvalidSettings
from kernelproto.log_fields import logging_about
from kernelproto.server.telemetry.audit import AUDIT_LOGGER, audit
from kernelproto.server.telemetry.logs import JsonLines, TextLines, configure_logging


def record(message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("kernelproto.pool", logging.WARNING, "", 1, message, args, exc_info)


def test_json_names_the_kernel_and_the_user() -> None:
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
def test_json_of_any_text_is_one_line(text: str) -> None:
    line = JsonLines().format(record("%s", text))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == text


def test_json_has_the_traceback() -> None:
    line = json.loads(JsonLines().format(record("it has failed", error=ValueError("why"))))
    assert "ValueError: why" in line["exception"]


def test_text_ends_with_the_kernel_and_the_user() -> None:
    with logging_about(user="a\nb"):
        first, *traceback = (
            TextLines().format(record("it fails", error=ValueError("why"))).splitlines()
        )
    assert first.endswith("WARNING kernelproto.pool it fails user='a\\nb'")
    assert traceback[-1] == "ValueError: why"
    assert TextLines().format(record("it fails")).endswith("it fails")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028", "\x1b[2K\n"])
def test_message_of_a_client_cannot_forge_a_record(end: str) -> None:
    forged = f"no kernel type 'x{end}2026-01-01 INFO kernelproto.audit event=login'"
    first, *others = TextLines().format(record(forged)).splitlines()
    assert "no kernel type 'x" in first
    assert all(line.startswith("    2026") for line in others)
    assert "\x1b" not in first


def test_json_has_the_event_of_the_audit_log(caplog) -> None:
    with caplog.at_level(logging.INFO, AUDIT_LOGGER):
        audit("login", "refused", reason="unknown token")
    line = json.loads(JsonLines().format(caplog.records[0]))
    assert line["audit"] == {"event": "login", "outcome": "refused", "reason": "unknown token"}


@pytest.fixture
def without_handlers():
    """Restore the loggers."""
    yield
    logger = logging.getLogger(AUDIT_LOGGER)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("without_handlers")
def test_audit_file_has_only_events(tmp_path) -> None:
    path = tmp_path / "audit.log"
    configure_logging("json", str(path))
    logging.getLogger(AUDIT_LOGGER).setLevel(logging.INFO)
    audit("login", "ok")
    logging.getLogger("kernelproto.server").error("something else")
    path.rename(tmp_path / "audit.log.1")  # as logrotate does
    audit("login", "refused")
    for name, outcome in [("audit.log.1", "ok"), ("audit.log", "refused")]:
        (line,) = (tmp_path / name).read_text().splitlines()
        assert json.loads(line)["audit"]["outcome"] == outcome


def test_audit_file_that_cannot_be_opened(tmp_path) -> None:
    with pytest.raises(InvalidSettings, match=r"audit_file: .* cannot be opened: Is a directory"):
        configure_logging("text", str(tmp_path))
