"""Lines that repeat are counted, and few are written."""

from __future__ import annotations

import logging

import pytest

from kernelproto.log_counts import LogCounts

logger = logging.getLogger(__name__)


def test_the_first_line_is_written_and_then_counts_that_double(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = LogCounts()
    for number in range(1, 100_001):
        counts.log(logger, logging.WARNING, "refused", "refused message %d", number)

    lines = [record.getMessage() for record in caplog.records]
    assert lines[:3] == [
        "refused message 1",
        "refused message 2 (2 times so far)",
        "refused message 4 (4 times so far)",
    ]
    assert len(lines) == 17
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_each_key_has_a_count_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    counts = LogCounts()
    for key in ("a", "a", "a", "b"):
        counts.log(logger, logging.WARNING, key, "line %s", key)

    assert caplog.messages == ["line a", "line a (2 times so far)", "line b"]


def test_a_line_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    LogCounts().log(logger, logging.WARNING, "long", "%s", "x" * 100_000)

    assert caplog.messages == ["x" * 1000 + " ..."]


def test_a_traceback_belongs_to_its_line(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        LogCounts().log(logger, logging.ERROR, "failed", "failed", exc_info=True)

    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
