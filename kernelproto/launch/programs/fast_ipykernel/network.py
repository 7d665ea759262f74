"""Wait until libzmq has written all outputs to the network.

libzmq writes in threads of its own, soon after a message was sent. A process that ends at once
takes messages with it that were not written yet: of a stock ipykernel that flushes and then calls
os._exit, about one in ten loses outputs on a busy machine. libzmq cannot say whether it has written
everything. But a thread of libzmq that sleeps has nothing to do, and sending a message wakes it
before the call returns. Linux shows which threads sleep.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import cache
from typing import Any, NoReturn

from .hook import IOPUB_THREAD, Hook, Need
from .publishing import wait_until_sent

# The threads that write, one for each context of libzmq.
NAME_PREFIX = b"ZMQbg/IO/"

TASKS = "/proc/self/task"

# How long os._exit waits, and how long to wait between two looks.
EXIT_SECONDS = 1.0
LOOK_SECONDS = 0.0001

# Enough for the name and the state of a thread, the first fields of its file.
STAT_BYTES = 64


def write_before_exit(application: Any) -> None:
    """Replace os._exit by a function that waits until the outputs of this process are written."""
    exit_now = os._exit
    kernel = os.getpid()

    def _exit(status: int) -> NoReturn:
        """Exit to the system with specified status, without normal exit processing."""
        if os.getpid() == kernel:
            wait_until_sent(application.iopub_thread, EXIT_SECONDS)
            wait_until_written(EXIT_SECONDS)
        exit_now(status)

    os._exit = _exit


def wait_until_written(seconds: float) -> None:
    """Wait until all threads that write to the network sleep, but not longer than *seconds*."""
    until = 0.0
    for file in _network_threads(os.getpid()):
        while not _sleeps(file):
            now = time.monotonic()
            until = until or now + seconds
            if now > until:
                return
            time.sleep(LOOK_SECONDS)


@cache
def _network_threads(_: int) -> list[str]:
    """Return the files about the threads that write to the network, of this process."""
    return [f"{TASKS}/{task}/stat" for task in _tasks() if _is_network_thread(task)]


def _tasks() -> list[str]:
    try:
        return os.listdir(TASKS)
    except OSError:
        return []


def _is_network_thread(task: str) -> bool:
    with suppress(OSError):
        return _read(f"{TASKS}/{task}/comm").startswith(NAME_PREFIX)
    return False


def _sleeps(file: str) -> bool:
    with suppress(OSError):
        return _read(file).rpartition(b")")[2][1:2] != b"R"
    return True  # it has ended


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, STAT_BYTES)
    finally:
        os.close(file)


HOOK = Hook(
    name="exit",
    needs=[Need(f"{IOPUB_THREAD}.schedule", "self, f", "thread is_alive")],
    install=write_before_exit,
)
