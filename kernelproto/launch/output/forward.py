"""Forwarder: passes on what a kernel's processes write, to whoever wants more than the tail of it.

Theory of operation
-------------------
Neither the kernel nor the thread that reads its pipe may wait for who gets the output. So a thread
of its own hands it over, and what that thread does not get rid of waits in memory, up to a bound.
What comes then is left out, and a line says where and how much: a disk that is slow for a moment
costs nothing, and one that hangs costs neither memory nor kernels.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from kernelproto.exceptions import InvalidLaunchParameter

Write = Callable[[bytes], object]

# It takes no descriptor where that is possible: there may be none left.
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.DefaultSelector
)

_BACKLOG_BYTES = 16 * 1024 * 1024

logger = logging.getLogger(__name__)


@runtime_checkable
class _Open(Protocol):
    def fileno(self) -> int: ...


class Forwarder:
    """Passes output on, in order, from a thread that starts with it and ends after end().

    put() and end() never block and are for any thread. When *write* raises, this is logged and
    nothing more is passed on.

    Args:
        write: called with each piece, in the forwarder's thread; it may block.
        close: called at the end, in that thread.

    Raises:
        RuntimeError: no thread can be started.
    """

    def __init__(self, write: Write, close: Callable[[], object] = lambda: None) -> None:
        self._write = write
        self._close = close
        self._changed = threading.Condition()
        self._backlog = bytearray()
        self._left_out = 0
        self._ended = self._failed = False
        self._thread = threading.Thread(target=self._run, name="kernelproto-forwarder", daemon=True)
        self._thread.start()

    def put(self, chunk: bytes) -> None:
        """Pass something on, or leave it out where too much is waiting already."""
        with self._changed:
            if self._failed:
                return
            if self._left_out or len(self._backlog) + len(chunk) > _BACKLOG_BYTES:
                self._left_out += len(chunk)
            else:
                self._backlog += chunk
            self._changed.notify()

    def end(self) -> None:
        """Let the thread end when it has passed on what is waiting."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait until everything has been passed on; return whether it has been, in this time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while pieces := self._take():
                for piece in pieces:
                    self._write(piece)
        except Exception:
            logger.warning("the output of a kernel cannot be passed on any more", exc_info=True)
            with self._changed:
                self._failed = True
                self._backlog.clear()
        finally:
            self._close()

    def _take(self) -> list[bytes]:
        """Wait for something to pass on; nothing means the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._backlog or self._ended)
            pieces = [bytes(self._backlog)] if self._backlog else []
            self._backlog.clear()
            if self._left_out:
                pieces.append(b"\n[%d bytes of output left out]\n" % self._left_out)
                self._left_out = 0
            return pieces


def _write_all(descriptor: int, data: bytes) -> None:
    unwritten = memoryview(data)
    while unwritten:
        try:
            unwritten = unwritten[os.write(descriptor, unwritten) :]
        except BlockingIOError:  # whose descriptor this is a duplicate of wants it like that
            with _Selector() as selector:
                selector.register(descriptor, selectors.EVENT_WRITE)
                selector.select()


def open_forwarder(output: object) -> Forwarder:
    """Make the forwarder to what the launch parameter ``output`` means.

    Args:
        output: a callable that takes bytes; or a descriptor or an open file, of which a duplicate
            is written to; or the path of a file, which is appended to.

    Raises:
        InvalidLaunchParameter: it is none of these, or cannot be opened.
        RuntimeError: no thread can be started.
    """
    if callable(output):
        return Forwarder(output)
    descriptor = open_output(output)
    try:
        return Forwarder(lambda piece: _write_all(descriptor, piece), lambda: os.close(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def open_output(output: object) -> int:
    """Return a new descriptor to write to, for anything open_forwarder() takes but a callable.

    Raises:
        InvalidLaunchParameter: it is none of these, or cannot be opened.
    """
    try:
        if isinstance(output, str):
            return os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if isinstance(output, int) and not isinstance(output, bool):
            return os.dup(output)
        if isinstance(output, _Open):
            return os.dup(output.fileno())
    except (OSError, ValueError) as error:
        raise InvalidLaunchParameter(
            f"launch parameter 'output': {output!r} cannot be written to: {error}"
        ) from error
    raise InvalidLaunchParameter(
        "launch parameter 'output' must be a callable that takes bytes, a descriptor, an open file "
        f"or the path of one, not {type(output).__name__}"
    )
