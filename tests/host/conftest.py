"""The host of each test, which must have ended after it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kernelproto.host.local import host_folder
from kernelproto.launch.process.proc import command_line


def host_processes(folder: str) -> list[int]:
    """Return the host of a folder and its watchdog."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(folder) in command_line(int(path.name)):
                found.append(int(path.name))
    return sorted(found)


@pytest.fixture
def folder(runtime_dir: Path) -> Iterator[str]:
    """Give the folder of this test's host; after the test, neither is left."""
    folder = host_folder()
    yield folder
    deadline = time.monotonic() + 5
    while os.path.exists(folder) or host_processes(folder):
        if time.monotonic() > deadline:
            error = Path(folder, "error")
            pytest.fail(
                f"left: {host_processes(folder)}, {list(Path(folder).rglob('*'))} "
                + (error.read_text() if error.exists() else "")
            )
        time.sleep(0.01)


@pytest.fixture
def host_and_guard(folder: str) -> Callable[[], list[int]]:
    """Give a function that returns the processes of the host and of its watchdog."""
    return lambda: host_processes(folder)


@pytest.fixture
def host_pid(folder: str) -> Callable[[], int]:
    """Give a function that returns the process of the host, not of its watchdog."""
    return lambda: host_processes(folder)[0]
