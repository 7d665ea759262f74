"""Answers to a kernel's ``input()``, read from standard input or the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

import anyio

from kernelproto.wire.content import InputRequest

# ipykernel takes this answer for the end of input: the code gets an EOFError.
END_OF_INPUT = "\x04"

_READ_BYTES = 4096


class LineReader:
    """Reads the answers to ``input()``, without a thread that could be left behind.

    Args:
        code_from_stdin: whether to read from the terminal, because standard input was the code.
    """

    def __init__(self, *, code_from_stdin: bool = False) -> None:
        self._from_terminal = code_from_stdin
        self._descriptor: int | None = None
        self._unread = b""

    async def answer(self, question: InputRequest) -> str:
        """Print the question, and return the line of the answer."""
        # Keep prompts out of redirected output.
        sys.stdout.flush()
        shown_at = sys.stdout if sys.stdout.isatty() else sys.stderr
        descriptor = self._open()
        if descriptor is None or not question.password:
            print(question.prompt, end="", file=shown_at, flush=True)
            return END_OF_INPUT if descriptor is None else await self._line(descriptor)
        with _without_echo(descriptor) as hidden:  # before the prompt
            print(question.prompt, end="", file=shown_at, flush=True)
            line = await self._line(descriptor)
        if hidden:
            print(file=shown_at, flush=True)
        return line

    def _open(self) -> int | None:
        if not self._from_terminal:
            return sys.stdin.fileno()
        if self._descriptor is None:
            with suppress(OSError):  # no terminal
                self._descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        return self._descriptor

    async def _line(self, descriptor: int) -> str:
        while b"\n" not in self._unread:
            with suppress(PermissionError):  # a regular file, which is always readable
                await anyio.wait_readable(descriptor)
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                break
            self._unread += data
        line, newline, self._unread = self._unread.partition(b"\n")
        if not (line or newline):
            return END_OF_INPUT
        return line.removesuffix(b"\r").decode(sys.stdin.encoding, "replace")


@contextmanager
def _without_echo(descriptor: int) -> Generator[bool]:
    """Hide typed text during the block; yield whether the descriptor is a terminal."""
    if not os.isatty(descriptor):
        yield False
        return
    import termios  # POSIX only

    before = termios.tcgetattr(descriptor)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
    try:
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def agrees(question: str) -> bool:
    """Ask a question on the terminal, on standard error; return whether the answer is yes."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
