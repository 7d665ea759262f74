"""Forwarder: passes the output of a kernel's processes to a file or a callable.

Theory of operation
-------------------
Neither the kernel nor the thread that reads the kernel's pipe may wait for the receiver. So each
forwarder has a thread, and a backlog in memory of up to 16 MiB. Output beyond the backlog is left
out, and replaced by a line with the number of bytes. So a slow disk loses no output, and a disk
that hangs blocks no kernel.
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

# If possible a selector without a descriptor, because there may be none left.
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.DefaultSelector
)

_BACKLOG_BYTES = 16 * 1024 * 1024

logger = logging.getLogger(__name__)


@runtime_checkable
class _Open(Protocol):
    def fileno(self) -> int: ...


class Forwarder:
    """Forwards output, in order, in a thread that ends after end().

    put() and end() are thread-safe and never block. If *write* raises, this is logged, and no more
    output is forwarded.

    Args:
        write: called with each piece, in the forwarder's thread; may block.
        close: called at the end, in the same thread.

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
        """Add output to the backlog; leave the output out if the backlog is full."""
        with self._changed:
            if self._failed:
                return
            if self._left_out or len(self._backlog) + len(chunk) > _BACKLOG_BYTES:
                self._left_out += len(chunk)
            else:
                self._backlog += chunk
            self._changed.notify()

    def end(self) -> None:
        """Let the thread end after the backlog was forwarded."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def join(self, seconds: float) -> bool:
        """Wait up to *seconds* for the end of the backlog; return whether all was forwarded."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while pieces := self._take():
                for piece in pieces:
                    self._write(piece)
        except Exception:
            logger.warning(
                "a kernel's output is no longer forwarded, because writing it failed", exc_info=True
            )
            with self._changed:
                self._failed = True
                self._backlog.clear()
        finally:
            self._close()

    def _take(self) -> list[bytes]:
        """Wait for output; return an empty list at the end."""
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
        except BlockingIOError:  # the original of this descriptor does not block either
            with _Selector() as selector:
                selector.register(descriptor, selectors.EVENT_WRITE)
                selector.select()


def open_forwarder(output: object) -> Forwarder:
    """Make the forwarder for the launch parameter ``output``.

    Args:
        output: a callable that takes bytes; a descriptor or an open file, which is duplicated; or
            the path of a file to append to.

    Raises:
        InvalidLaunchParameter: *output* is none of these, or cannot be opened.
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
    """Return a new descriptor for *output*: a descriptor, an open file or a path.

    Raises:
        InvalidLaunchParameter: *output* is none of these, or cannot be opened.
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
