"""OutputBuffer: the outputs of one execution, between the kernel and their reader.

The policy. Outputs that nobody has read yet are kept up to a limit in bytes. What exceeds it is
discarded, together with everything after it, so that what was kept has no gap; the reader is told
how much is missing. Outputs that were read are kept for the final result up to the same limit;
beyond it the oldest go, and the result says that it is incomplete. Nothing goes without a trace.
"""

from __future__ import annotations

from operator import itemgetter

from kernelproto.client.refusals import RefusedOutput
from kernelproto.exceptions import OutputOverflow
from kernelproto.wire.content import (
    DisplayData,
    ExecuteResult,
    MimeBundle,
    Output,
    UpdateDisplayData,
)

# What an output takes in memory beside the bytes of its message.
_OBJECT_BYTES = 500


class OutputBuffer:
    """Outputs in order, with a reading position; bounded as described above.

    Args:
        limit: how many bytes of unread, and of read, outputs are kept.
    """

    __slots__ = (
        "_displays",
        "_gone",
        "_limit",
        "_lost",
        "_lost_bytes",
        "_outputs",
        "_read",
        "_read_bytes",
        "_unread_bytes",
        "_updates",
        "complete",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._outputs: list[tuple[Output, int]] = []
        self._read = 0
        self._read_bytes = 0
        self._unread_bytes = 0
        self._lost = 0
        self._lost_bytes = 0
        self._gone = 0  # how many outputs were dropped after they had been read
        self._displays: set[str] = set()
        # By display: how many outputs had come before the update, and the update.
        self._updates: dict[str, tuple[int, UpdateDisplayData]] = {}
        self.complete = True

    def append(self, output: Output, size: int) -> bool:
        """Add an output whose message has *size* bytes; return whether it is kept."""
        size += _OBJECT_BYTES
        if self._lost or self._unread_bytes + size > self._limit:
            self._lost += 1
            self._lost_bytes += size
            self.complete = False
            return False
        self._outputs.append((output, size))
        self._unread_bytes += size
        if isinstance(output, MimeBundle):
            self._note_display(output)
        elif isinstance(output, RefusedOutput):
            self.complete = False
        return True

    def read(self) -> Output | None:
        """Return the next unread output, or None when there is none."""
        if self._read == len(self._outputs):
            return None
        output, size = self._outputs[self._read]
        self._read += 1
        self._read_bytes += size
        self._unread_bytes -= size
        if self._read_bytes > self._limit:
            self._drop_what_was_read()
        return output

    def amend(self, update: UpdateDisplayData) -> None:
        """Take an update that another execution has made, if it is to a display of this one."""
        if update.display_id in self._displays:
            self._updates[update.display_id] = (self._gone + len(self._outputs), update)

    def kept(self) -> list[Output]:
        """Return the outputs that are kept, read or not, and the updates from elsewhere, in order.

        Only the last update from elsewhere to each display is among them.
        """
        kept: list[Output] = [output for output, _ in self._outputs]
        # From the last one backwards, so that no position is shifted by another.
        for position, update in sorted(self._updates.values(), key=itemgetter(0), reverse=True):
            kept.insert(max(position - self._gone, 0), update)
        return kept

    def overflow(self) -> OutputOverflow | None:
        """Return the exception that tells what was discarded unread, or None when nothing was."""
        if not self._lost:
            return None
        return OutputOverflow(
            f"{self._lost} outputs of {self._lost_bytes} bytes were discarded, because more than "
            f"{self._limit} bytes were waiting to be read: iterate over the outputs as they come, "
            "or give the client a higher output_limit",
            discarded_messages=self._lost,
            discarded_bytes=self._lost_bytes,
        )

    def _note_display(self, output: Output) -> None:
        if isinstance(output, DisplayData | ExecuteResult) and output.display_id is not None:
            self._displays.add(output.display_id)

    def _drop_what_was_read(self) -> None:
        del self._outputs[: self._read]
        self._gone += self._read
        self._read = self._read_bytes = 0
        self.complete = False
        self._displays.clear()
        for output, _ in self._outputs:
            self._note_display(output)
        self._updates = {
            name: self._updates[name] for name in self._displays & self._updates.keys()
        }
