"""A stall oracle: a process of its own that asks a server for /healthz, again and again.

A wait is no pause of the server as far as the machine was busy with something else. On Linux a
pause is

- how long the server's thread has computed during the wait (/proc/PID/schedstat),
- and how long it was blocked, except while no processor was idle: what it waited for, such as the
  start of a process, waited for a processor then.

How long the thread was ready to run, while the system ran other programs, does not count. The same
work takes longer and comes in larger portions then, so the limit grows by the factor by which the
server was slowed down, to twice as much at the most. Elsewhere a control process answers the same
question right afterwards, and that wait is subtracted.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_PAUSE = 0.25
MOST_SLOWDOWN = 2.0
INTERVAL = 0.02
TICK = 0.005
GIVE_UP_SECONDS = 60

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: oracle.test\r\n\r\n"
CONTROL = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
while data := connection.recv(1000):
    connection.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
"""


class StallOracle:
    """Watches a server from when it is made until ``stop`` is called.

    Args:
        port: of the server, on loopback.
        pid: of its process, whose first thread runs the event loop.
    """

    def __init__(self, port: int, pid: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(port), str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> dict[str, Any]:
        """Return what was seen; it waits for the last answer, which the server must still give."""
        out, _ = self._process.communicate()
        assert self._process.returncode == 0, f"the oracle ended with {self._process.returncode}"
        return json.loads(out)


def assert_no_pause(report: dict[str, Any]) -> None:
    """Fail where a server has paused, or has not answered as it should."""
    assert not report["failures"], report
    assert report["count"] or report["has_ended"], report
    assert report["worst"]["pause"] < report["worst"]["limit"], report


@contextmanager
def no_pause(port: int, pid: int) -> Iterator[None]:
    """Fail where a server in another process pauses during the block."""
    oracle = StallOracle(port, pid)
    try:
        yield
    finally:
        report = oracle.stop()
    assert_no_pause(report)


class _Asked:
    """Something that is asked, over one connection as long as that lasts."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self.last_late = 0.0

    def ask(self) -> str:
        """Return the status line; ``last_late`` tells how late it was noticed."""
        if self._socket is not None:
            try:
                return self._ask(self._socket)
            except OSError:  # a connection without a request may be closed at any time
                self._close()
        self._socket = socket.create_connection(("127.0.0.1", self._port), GIVE_UP_SECONDS)
        return self._ask(self._socket)

    def _ask(self, connection: socket.socket) -> str:
        connection.sendall(REQUEST)
        data = b""
        began = tick = time.perf_counter()
        while not is_complete(data):
            readable, _, _ = select.select([connection], [], [], TICK)
            now = time.perf_counter()
            self.last_late = max(now - tick - TICK, 0)
            tick = now
            if now - began > GIVE_UP_SECONDS:
                raise TimeoutError
            if readable:
                chunk = connection.recv(65_536)
                data += chunk
                if not chunk:
                    raise ConnectionError(f"the connection was closed after {data!r}")
        if b"connection: close" in data.lower():
            self._close()
        return data.partition(b"\r\n")[0].decode("latin-1")

    def _close(self) -> None:
        assert self._socket is not None
        self._socket.close()
        self._socket = None


def is_complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
    return bool(end) and length is not None and len(body) >= int(length[1])


class Clocks(NamedTuple):
    """Seconds at one moment: of the clock, of a process's first thread, and of all processors."""

    now: float
    computed: float
    ready: float
    idle: float


def clocks(pid: int) -> Clocks | None:
    """Return the clocks; None where the system has none."""
    try:
        thread = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
        processors = Path("/proc/stat").read_text().split(maxsplit=6)
    except OSError:
        return None
    computed, ready = (int(nanoseconds) / 1e9 for nanoseconds in thread[:2])
    idle = (int(processors[4]) + int(processors[5])) / os.sysconf("SC_CLK_TCK")
    return Clocks(time.perf_counter(), computed, ready, idle)


def judge(before: Clocks, after: Clocks, late: float) -> dict[str, float]:
    """Return the pause between two moments, the limit for it, and how both were reckoned."""
    wait, computed, ready, idle = (end - begin for begin, end in zip(before, after, strict=True))
    blocked = max(wait - computed - ready - late, 0.0)
    busy = max(wait - idle, 0.0)
    pause = computed + max(blocked - busy, 0.0)
    slowdown = min(max(wait / max(wait - ready, 0.001), 1.0), MOST_SLOWDOWN)
    return {
        "pause": pause,
        "limit": LONGEST_PAUSE * slowdown,
        "wait": wait,
        "computed": computed,
        "blocked": blocked,
        "busy": busy,
    }


def ends(pid: int) -> bool:
    """Return whether a process has ended, or ends within a time."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(INTERVAL)
    return False


def watch(port: int, pid: int) -> dict[str, Any]:
    """Ask until standard input ends, and once more; return the longest pause."""
    server = _Asked(port)
    control = None if clocks(pid) is not None else _Asked(start_control())
    worst: dict[str, float] = {"pause": 0.0, "limit": LONGEST_PAUSE}
    report: dict[str, Any] = {"count": 0, "longest_wait": 0.0, "has_ended": False}
    failures = report["failures"] = []
    is_last = False
    while True:
        began, before = time.perf_counter(), clocks(pid)
        try:
            status = server.ask()
        except OSError as error:
            report["has_ended"] = ends(pid)
            if not report["has_ended"]:
                failures.append(repr(error))
            break
        wait, after = time.perf_counter() - began, clocks(pid)
        if before is not None and after is not None:
            found = judge(before, after, server.last_late)
        elif control is not None:
            control.ask()
            noise = time.perf_counter() - began - wait
            found = {"pause": max(wait - noise, 0.0), "limit": LONGEST_PAUSE, "wait": wait}
        else:  # the server has just ended
            break
        report["count"] += 1
        report["longest_wait"] = max(wait, report["longest_wait"])
        if " 200 " not in status:
            failures.append(status)
        if found["pause"] * worst["limit"] >= worst["pause"] * found["limit"]:
            worst = found
        if is_last:
            break
        is_last = bool(select.select([sys.stdin], [], [], INTERVAL)[0])
    return {**report, "worst": worst}


def start_control() -> int:
    """Start a server that does nothing else, and ends with its connection; return its port."""
    process = subprocess.Popen([sys.executable, "-c", CONTROL], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return int(process.stdout.readline())


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdout.write(json.dumps(watch(int(sys.argv[1]), int(sys.argv[2]))))
