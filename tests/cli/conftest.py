"""The command as a process, with pipes or at a terminal."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import coverage
import pytest

# Under pytest --cov the command is measured as well, but not its kernels.
_MEASURED = ["-m", "coverage", "run", "--parallel-mode"] if coverage.Coverage.current() else []
PROGRAM = [sys.executable, *_MEASURED, "-m", "kernelproto"]

GUARD_SECONDS = 60  # against hanging; no step takes that long

# These variables of the caller would change the output.
_UNWANTED = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"}


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _UNWANTED}
    return inherited | {"TERM": "xterm-256color"} | more


@pytest.fixture(autouse=True)
def outside_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands in this process print no annotations, although GitHub may run the tests."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


@pytest.fixture
def kernelproto() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Give a function that runs the command with pipes, and returns the completed process."""

    def run(
        *words: str, stdin: str = "", stdout: int = subprocess.PIPE, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *words],
            input=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=GUARD_SECONDS,
            env=environment(**env),
        )

    return run


@pytest.fixture
def deaf_pipe() -> Iterator[int]:
    """Give a pipe whose reader has closed it."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


class Terminal:
    """The command at a terminal of its own.

    Args:
        words: the command line.
        columns: the width of the terminal.
        through: a command that runs the command line, which is added to it.
        env: environment variables.

    Attributes:
        written: all that was written to it so far.
        process: the command.
    """

    def __init__(
        self, *words: str, columns: int = 80, through: Sequence[str] = (), **env: str
    ) -> None:
        self._ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
        self.written = ""
        self._seen = 0
        self.process = subprocess.Popen(
            # Make this terminal the controlling one, for /dev/tty and Ctrl-C.
            [sys.executable, "-c", _OWN_TERMINAL, *through, *PROGRAM, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(**env),
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    @property
    def text(self) -> str:
        """What was written, without colours and without moving the cursor."""
        return _CONTROL_SEQUENCE.sub("", self.written)

    def until(self, text: str) -> None:
        """Wait until *text* is written, after the text awaited before."""
        deadline = time.monotonic() + GUARD_SECONDS
        while (found := self.text.find(text, self._seen)) < 0:
            assert self._read(deadline), f"no {text!r} in {self.text[self._seen :]!r}"
        self._seen = found + len(text)

    def end(self) -> int:
        """Wait for the end of the program; return its exit status."""
        deadline = time.monotonic() + GUARD_SECONDS
        while self._read(deadline):
            pass
        return self.process.wait(GUARD_SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(GUARD_SECONDS)
        os.close(self._ours)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(deadline - time.monotonic(), 0))
        try:
            data = os.read(self._ours, 65536) if ready else b""
        except OSError:  # the program has ended
            return False
        text = data.decode(errors="replace")
        self.written += text
        if _WHERE_IS_THE_CURSOR in text:
            self.type("\x1b[1;1R")
        return bool(data)


_CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_WHERE_IS_THE_CURSOR = "\x1b[6n"

_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Give a function that runs the command at a terminal."""
    terminals: list[Terminal] = []

    def open_terminal(*words: str, **options: Any) -> Terminal:
        terminals.append(Terminal(*words, **options))
        return terminals[-1]

    yield open_terminal
    for opened in terminals:
        opened.close()
