"""OutputBuffer: the outputs of one execution, between the kernel and their reader.

The policy. Unread outputs are kept up to a limit in bytes. An output beyond the limit and all later
outputs are discarded, so that the kept outputs have no gap; the reader gets an error with the
number of missing outputs. Outputs that were read stay on the page for the result, up to the same
limit; beyond the limit the oldest are dropped, and the result is marked as incomplete. Cleared
outputs do not count.
"""

from __future__ import annotations

from collections import deque

from kernelproto.client.page import Displays, OutputPage
from kernelproto.exceptions import OutputOverflow
from kernelproto.wire.content import Output

# The memory for an output in addition to the bytes of the message.
_OBJECT_BYTES = 500


class OutputBuffer:
    """Outputs in order, with a reading position; bounded as described above.

    Args:
        limit: the bytes of unread outputs, and of read outputs, that are kept.

    Attributes:
        page: all outputs, read or not, after clear_output and display updates.
    """

    __slots__ = ("_complete", "_limit", "_lost", "_lost_bytes", "_unread", "_unread_bytes", "page")

    def __init__(self, limit: int) -> None:
        self.page = OutputPage(Displays(limit))
        self._limit = limit
        self._unread: deque[tuple[Output, int]] = deque()
        self._unread_bytes = 0
        self._lost = 0
        self._lost_bytes = 0
        self._complete = True

    @property
    def complete(self) -> bool:
        """Whether the page has all outputs of the kernel."""
        return self._complete and self.page.complete

    @complete.setter
    def complete(self, complete: bool) -> None:
        self._complete = complete

    def append(self, output: Output, size: int) -> bool:
        """Add an output; return whether the buffer keeps the output.

        Args:
            output: the output.
            size: the size of the output's message in bytes.
        """
        size += _OBJECT_BYTES
        if self._lost or self._unread_bytes + size > self._limit:
            self._lost += 1
            self._lost_bytes += size
            self._complete = False
            return False
        self._unread.append((output, size))
        self._unread_bytes += size
        self.page.take(output, size)
        return True

    def read(self) -> Output | None:
        """Return the next unread output; None if there is none."""
        if not self._unread:
            return None
        output, size = self._unread.popleft()
        self._unread_bytes -= size
        if self.page.size > self._limit:
            self.page.shrink(self._limit + self._unread_bytes)
        return output

    def overflow(self) -> OutputOverflow | None:
        """Return the exception for discarded unread outputs; None if there are none."""
        if not self._lost:
            return None
        return OutputOverflow(
            f"{self._lost} outputs of {self._lost_bytes} bytes were discarded, because more than "
            f"{self._limit} bytes were waiting to be read: iterate over the outputs as they come, "
            "or give the client a higher output_limit",
            discarded_messages=self._lost,
            discarded_bytes=self._lost_bytes,
        )
