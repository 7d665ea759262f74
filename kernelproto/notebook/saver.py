"""Saver: saves the notebook of an execution, after cells, while a cell runs, and at the end.

The policy: the event loop copies the lists of cells and outputs, and a thread encodes and writes
the copy. One save at a time; saves that take long use a tenth of the time at most, except for the
last one. A notebook that has not changed is not saved again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from anyio import to_thread

from kernelproto.concurrency.shield import to_the_end
from kernelproto.notebook.encoding import encode
from kernelproto.notebook.files import allowed_outputs, dump, is_stream, replace_file
from kernelproto.notebook.nodes import Node
from kernelproto.notebook.recorder import Recorder
from kernelproto.urls import is_url

logger = logging.getLogger(__name__)

# A save that takes less, in seconds, delays no other one.
_QUICK = 0.01

# The pause after a save, as a multiple of the duration of the save.
_REST = 9.0


class Saver:
    """Saves the notebook of an execution to a file.

    A stream, see ``is_stream``, gets the notebook once, at the end; a URL after cells and at the
    end.

    Args:
        path: the file.
        nb: the notebook.
        recorder: writes the outputs into the notebook.
        seconds: the time between saves while a cell runs; None saves only after cells.
        widgets: whether to save the state of widgets.

    Attributes:
        running: the position of the running cell, whose outputs are not checked yet; None for none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        nb: Node,
        recorder: Recorder,
        *,
        seconds: float | None,
        widgets: bool,
    ) -> None:
        self.running: int | None = None
        self._path = path
        self._nb = nb
        self._recorder = recorder
        self._seconds = None if is_url(path) else seconds
        self._widgets = widgets
        self._is_stream = is_stream(path)
        self._scope = anyio.CancelScope()
        self._postponed = anyio.Event()
        self._saved_changes = recorder.changes
        self._saved_at = time.monotonic()
        self._duration = 0.0
        # A cancelled task may leave a thread that still writes, and must not write last.
        self._lock = threading.Lock()
        self._begun = 0
        self._written = 0

    async def save_regularly(self) -> None:
        """Save the changes while cells run, until ``finish``; a failure is logged."""
        if self._seconds is None or self._is_stream:
            return
        with self._scope:
            while True:
                with anyio.move_on_after(self._seconds_until(self._seconds)):
                    await self._postponed.wait()
                await anyio.sleep(self._rest())
                is_due = self._postponed.is_set() or self._seconds_until(self._seconds) == 0
                if is_due and self._saved_changes != self._recorder.changes:
                    try:
                        await self._save(abandon_on_cancel=True)
                    except OSError as error:
                        logger.warning("the notebook was not saved while a cell runs: %s", error)
                if is_due:
                    self._postponed = anyio.Event()
                    self._saved_at = time.monotonic()

    async def save_after_cell(self) -> None:
        """Save the notebook: at once, or regularly if the last save has just taken long.

        Raises:
            OSError: the file cannot be written.
        """
        if self._is_stream:
            return
        if self._seconds is not None and self._duration > _QUICK and self._rest() > 0:
            self._postponed.set()
        else:
            await self._save(abandon_on_cancel=False)

    async def finish(self, nb: Node) -> None:
        """Save the notebook for the last time.

        Args:
            nb: the notebook, or a copy with banners, which must not change any more.

        Raises:
            OSError: the file cannot be written.
        """
        self._scope.cancel()
        self._begun += 1
        write = partial(self._write, self._begun, partial(dump, nb))
        if self._is_stream:
            # A pipe may never get a reader. Then cancellation abandons the thread.
            await to_thread.run_sync(write, abandon_on_cancel=True)
        else:
            await to_the_end(partial(to_thread.run_sync, write))  # bounded by the write

    async def _save(self, *, abandon_on_cancel: bool) -> None:
        changes = self._recorder.changes
        snapshot = self._recorder.snapshot(self._nb)
        widgets = self._recorder.widgets.snapshot() if self._widgets else None
        if widgets is not None:
            snapshot["metadata"] = {**snapshot["metadata"], "widgets": widgets}
        running = None if self.running is None else snapshot["cells"][self.running]
        self._begun += 1
        write = partial(self._write, self._begun, partial(_encode, snapshot, running))
        await to_thread.run_sync(write, abandon_on_cancel=abandon_on_cancel)
        self._saved_changes = changes

    def _write(self, number: int, encoded: Callable[[], bytes | memoryview]) -> None:
        """Write a version of the notebook, unless a later one is written; called in a thread."""
        with self._lock:
            if number < self._written:
                return
            began = time.monotonic()
            replace_file(self._path, encoded())
            self._written = number
            self._saved_at = time.monotonic()
            self._duration = self._saved_at - began

    def _seconds_until(self, seconds: float) -> float:
        """Return the seconds until a time has passed since the last save; 0 afterwards."""
        return max(self._saved_at + seconds - time.monotonic(), 0.0)

    def _rest(self) -> float:
        """Return the seconds in which no save may begin, so that saves take a tenth of the time."""
        return self._seconds_until(_REST * self._duration)


def _encode(snapshot: dict[str, Any], running: dict[str, Any] | None) -> memoryview:
    if running is not None:
        running["outputs"] = allowed_outputs(running["outputs"], snapshot["nbformat_minor"])
    return encode(snapshot)
