from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernelproto.launch.programs.host import message_log
from kernelproto.launch.programs.host.message_log import Limits, MessageLog


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have about ten messages in a segment."""
    monkeypatch.setattr(message_log, "SEGMENT_BYTES", 2000)


def message(number: int) -> bytes:
    return b"%100d" % number


def make(folder: Path, count: int = 0, **limits: int) -> MessageLog:
    log = MessageLog(str(folder), Limits(**{"memory": 10_000, "file": 10**6, "kept": 0, **limits}))
    for number in range(1, count + 1):
        assert log.append(number % 4, message(number)) == number
    return log


def numbers(log: MessageLog, after: int) -> list[int]:
    found = []
    while True:
        first, entries = log.read(after)
        if not entries:
            return found
        for after, (channel, body) in enumerate(entries, first):
            if body is not None:
                assert (channel, body) == (after % 4, message(after))
                found.append(after)


def size_of_files(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.iterdir())


def test_empty_log(tmp_path) -> None:
    log = make(tmp_path)
    assert (log.first, log.last) == (1, 0)
    assert log.read(0) == (1, [])
    log.acknowledge(100)
    assert log.acknowledged == 0


def test_messages_are_read_from_any_number(tmp_path) -> None:
    log = make(tmp_path, 45)
    assert not list(tmp_path.iterdir())
    for after in (0, 7, 10, 44, 45, 100):
        assert numbers(log, after) == list(range(after + 1, 46))


def test_above_the_memory_limit_messages_go_to_files(tmp_path) -> None:
    log = make(tmp_path, 1000)
    assert log._memory <= 10_000
    assert len(list(tmp_path.iterdir())) > 50
    for after in (0, 7, 500, 999):
        assert numbers(log, after) == list(range(after + 1, 1001))
    log.close()
    assert not list(tmp_path.iterdir())
    assert (log.first, log.last) == (1001, 1000)


def test_acknowledged_messages_go_first(tmp_path) -> None:
    log = make(tmp_path, 1000)
    log.acknowledge(990)
    assert log.first > 900
    assert len(list(tmp_path.iterdir())) <= 1
    assert numbers(log, 990) == list(range(991, 1001))


def test_acknowledged_messages_are_kept_up_to_a_limit(tmp_path) -> None:
    log = make(tmp_path, 45, kept=5000)
    log.acknowledge(40)
    assert 1 < log.first < 30
    for number in range(46, 1000):
        log.append(number % 4, message(number))
        log.acknowledge(number)
        assert log._memory < 10_000
    assert not list(tmp_path.iterdir())


def test_above_the_limit_for_files_the_oldest_are_lost(tmp_path) -> None:
    log = make(tmp_path, 1000, file=20_000)
    assert size_of_files(tmp_path) <= 20_000
    assert log.first > 800
    assert numbers(log, 0) == list(range(log.first, 1001))


def test_without_files_the_oldest_are_lost(tmp_path) -> None:
    log = make(tmp_path / "missing", 1000)
    assert log._memory <= 10_000
    assert numbers(log, 0) == list(range(log.first, 1001))


def test_large_and_lost_messages_have_numbers(tmp_path) -> None:
    log = make(tmp_path, 5)
    assert log.append(1, None) == 6
    log.append(7 % 4, message(7))
    assert numbers(log, 0) == [1, 2, 3, 4, 5, 7]
    for _ in range(100):
        log.append(1, None)
    assert numbers(log, 0) == [1, 2, 3, 4, 5, 7]


def test_message_above_the_memory_limit_is_kept_until_the_next(tmp_path) -> None:
    log = make(tmp_path, memory=1000)
    log.append(0, bytes(5000))
    assert log.read(0) == (1, [(0, bytes(5000))])
    log.append(0, bytes(10))
    log.append(0, bytes(10))
    assert log.read(0)[1] == [(0, bytes(5000))]
    assert len(list(tmp_path.iterdir())) == 1


def test_changed_file_is_a_loss_and_no_fault(tmp_path) -> None:
    log = make(tmp_path, 1000)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:500])
    assert set(numbers(log, 0)) < set(range(1, 1001))
    for path in tmp_path.iterdir():
        path.unlink()
    log._read = None
    assert numbers(log, 990) == list(range(991, 1001))
