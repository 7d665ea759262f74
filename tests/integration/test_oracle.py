"""The oracle finds pauses of a server, and no others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.oracle import (
    LONGEST_PAUSE,
    Clocks,
    StallOracle,
    assert_no_pause,
    judge,
    no_pause,
)

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc"),
]

PROGRAM = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
number = 0
while connection.recv(1000):
    number += 1
    end = time.thread_time() + (1.5 if sys.argv[1] == "pauses" and number == 3 else 0)
    while time.thread_time() < end:
        pass
    connection.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""


@contextmanager
def serving(kind: str) -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-c", PROGRAM, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()


def test_pause_is_found() -> None:
    with serving("pauses") as (port, pid):
        oracle = StallOracle(port, pid)
        for _ in range(5):
            subprocess.run([sys.executable, "-c", ""], check=True)
        report = oracle.stop()
    with pytest.raises(AssertionError, match="'pause': 1"):
        assert_no_pause(report)


def test_server_without_a_pause_passes() -> None:
    with serving("works") as (port, pid), no_pause(port, pid):
        subprocess.run([sys.executable, "-c", ""], check=True)


def test_server_that_ends_is_no_failure() -> None:
    with serving("works") as (port, pid), no_pause(port, pid):
        subprocess.run(["kill", str(pid)], check=True)


BEFORE = Clocks(now=100.0, computed=5.0, ready=3.0, idle=50.0)


@pytest.mark.parametrize(
    ("after", "pause", "limit"),
    [
        pytest.param((101.0, 6.0, 3.0, 51.0), 1.0, LONGEST_PAUSE, id="computed"),
        pytest.param((101.0, 5.0, 3.0, 52.0), 1.0, LONGEST_PAUSE, id="blocked"),
        pytest.param((101.0, 5.0, 3.0, 50.0), 0.0, LONGEST_PAUSE, id="blocked on a busy machine"),
        pytest.param((101.0, 5.1, 3.9, 50.0), 0.1, 2 * LONGEST_PAUSE, id="ready to run"),
        pytest.param((101.0, 5.5, 3.25, 50.0), 0.5, 4 / 3 * LONGEST_PAUSE, id="slowed down"),
    ],
)
def test_reckoning(after: tuple[float, ...], pause: float, limit: float) -> None:
    found = judge(BEFORE, Clocks(*after), 0.0)
    assert found["pause"] == pytest.approx(pause)
    assert found["limit"] == pytest.approx(limit)
