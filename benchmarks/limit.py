"""Interrupt work that hangs, so that one contender cannot stop a whole run."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from types import FrameType

from benchmarks.exceptions import Overdue
from benchmarks.proc import descendants

# The first interrupt lets the work clean up, later ones interrupt the cleanup.
_INTERRUPTS = 4
_SECONDS_BETWEEN_INTERRUPTS = 20.0

_HAS_SIGNALS = hasattr(signal, "pthread_kill")  # not on Windows


@contextmanager
def limited(
    work: str,
    seconds: float,
    say: Callable[[str], None],
    *,
    shared: Callable[[], Iterable[int]] = tuple,
    interrupts: int = _INTERRUPTS,
    between: float = _SECONDS_BETWEEN_INTERRUPTS,
) -> Generator[None]:
    """Interrupt the block, as Ctrl-C does, if it exceeds a time limit; only for the main thread.

    Then the stacks of all threads are written to standard error. If the block still runs some
    seconds later, the processes that it has started are killed, and the block is interrupted again.
    Work that goes on after the last interrupt ends the program with status 1. On Windows the
    program ends at once.

    Args:
        work: the name of the work, for the messages.
        seconds: the time limit.
        say: prints a line about the progress.
        shared: returns the processes that later work needs; these, and all that are running now,
            are not killed.
        interrupts: the number of interrupts.
        between: seconds from one interrupt to the next.

    Raises:
        Overdue: the block was interrupted.
    """
    watch = _Watch(work, seconds, say, shared, interrupts, between)
    if _HAS_SIGNALS:
        signal.signal(signal.SIGALRM, watch.interrupt)
    watch.begin()
    cause: BaseException | None = None
    try:
        try:
            yield
        finally:
            watch.end()
    except BaseException as error:
        watch.end()  # the last interrupt may have come just before the first call
        if not watch.exceeded:
            raise
        cause = error
    finally:
        if _HAS_SIGNALS:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if watch.exceeded:
        raise Overdue(
            f"it was interrupted, because it had not ended after {seconds:g} s"
        ) from cause


class _Watch:
    """The time limit of one block, which a thread watches.

    Attributes:
        exceeded: whether the block has exceeded the limit; final after ``end``.
    """

    def __init__(
        self,
        work: str,
        seconds: float,
        say: Callable[[str], None],
        shared: Callable[[], Iterable[int]],
        interrupts: int,
        between: float,
    ) -> None:
        self.exceeded = False
        self._work = work
        self._seconds = seconds
        self._say = say
        self._shared = shared
        self._interrupts = interrupts if _HAS_SIGNALS else 0
        self._between = between
        self._earlier = set(descendants())
        self._is_over = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"limit of {work}", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self) -> None:
        """Note the end of the block; no interrupt comes afterwards. May be called again."""
        self._is_over = True  # from here on no interrupt has an effect
        self._ended.set()
        self._thread.join()

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Act like a Ctrl-C, in the main thread; an event loop may have a handler of its own."""
        if self._is_over:
            return
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        if self._ended.wait(self._seconds):
            return
        self.exceeded = True
        self._say(
            f"{self._work} has not ended after {self._seconds:g} s; the stacks of all threads:"
        )
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
        for number in range(self._interrupts):
            if number:
                self._kill_processes()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            if self._ended.wait(self._between):
                return
        self._say(
            f"{self._work} cannot be interrupted, so this program ends: ask the other questions in "
            "another run"
        )
        self._kill_processes()
        os._exit(1)

    def _kill_processes(self) -> None:
        spared = self._earlier | set(self._shared())
        for pid in list(descendants(without=spared)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
