"""Let a kernel that ends by os._exit write all outputs before.

libzmq writes to the network in threads of its own, soon after a message was sent. A process that
ends at once takes messages with it that were not written yet: of a stock ipykernel that flushes and
then calls os._exit, about one in ten loses outputs on a busy machine. libzmq cannot say whether it
has written everything. But a thread of libzmq that sleeps has nothing to do, and sending a message
wakes it before the call returns. Linux shows which threads sleep.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any, NoReturn

from .hook import IOPUB_THREAD, Hook, Need
from .publishing import wait_until_sent

# The threads that write, one for each context of libzmq.
NAME_PREFIX = b"ZMQbg/IO/"

TASKS = "/proc/self/task"

# How long to wait, and between two looks.
WRITTEN_SECONDS = 1.0
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
            wait_until_sent(application.iopub_thread, WRITTEN_SECONDS)
            wait_until_written()
        exit_now(status)

    os._exit = _exit


def wait_until_written() -> None:
    """Wait until all threads that write to the network sleep, but not longer than a second."""
    until = time.monotonic() + WRITTEN_SECONDS
    for task in filter(_is_network_thread, _tasks()):
        while not _sleeps(task) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)


def _tasks() -> list[str]:
    try:
        return os.listdir(TASKS)
    except OSError:
        return []


def _is_network_thread(task: str) -> bool:
    with suppress(OSError):
        return _read(f"{TASKS}/{task}/comm").startswith(NAME_PREFIX)
    return False


def _sleeps(task: str) -> bool:
    with suppress(OSError):
        return _read(f"{TASKS}/{task}/stat").rpartition(b")")[2][1:2] != b"R"
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
