"""Lines: finds the executions to which a later message of their line is a signal.

``conversation.py`` explains the signals. A search takes time only for the returned executions, not
for all open ones. A client may send thousands of requests before it reads the first reply.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from kernelproto.wire.request import Line, Request
from kernelproto.wire.transitions import State

# A short heap is not worth the search for old entries.
_SHORT = 16


class Lines:
    """The open executions of each line, by state, in the order in which they were sent."""

    def __init__(self) -> None:
        self._lines: dict[Line, _OpenLine] = {}

    def add(self, request: Request) -> None:
        """Add an execution that is about to be sent."""
        line = self._lines.get(request.line)
        if line is None:
            line = self._lines[request.line] = _OpenLine()
        line.count += 1
        line.sent.add(request, line.count)

    def note(self, request: Request) -> None:
        """Take note of the new state of an execution."""
        line = self._lines[request.line]
        line.by_idle.pop(request, None)
        if request.state is State.SENT:
            line.sent.add(request, line.count)
        elif request.state is State.REPLIED:
            line.replied.add(request, line.count)
        elif request.state is State.IDLED:
            line.idled.add(request, line.count)
            line.by_idle[request] = None

    def remove(self, request: Request) -> None:
        """Remove an execution that is over or forgotten."""
        request.is_open = False
        line = self._lines[request.line]
        line.by_idle.pop(request, None)
        line.count -= 1
        if not line.count:
            del self._lines[request.line]

    def sent_before(self, later: Request) -> list[Request]:
        """Remove and return the executions before a request that are SENT.

        The caller changes their state; ``note`` adds an execution that is SENT again.
        """
        line = self._lines.get(later.line)
        return [] if line is None else line.sent.take_before(later)

    def replied_before(self, later: Request) -> list[Request]:
        """Remove and return the executions before a request that are REPLIED; see sent_before()."""
        line = self._lines.get(later.line)
        return [] if line is None else line.replied.take_before(later)

    def idled_before(self, later: Request) -> list[Request]:
        """Return the executions before a request that were IDLED before the request was begun.

        The caller removes them.
        """
        line = self._lines.get(later.line)
        if line is None:
            return []
        if later.busy_at is None:
            return line.idled.take_before(later)
        found: list[Request] = []
        for request in line.by_idle:
            if request.idle_at is not None and request.idle_at > later.busy_at:
                break  # so are all that follow
            if request.number < later.number:
                found.append(request)
        return sorted(found, key=lambda request: request.number)


class _OpenLine:
    """The open executions of one line.

    Attributes:
        count: their number.
        sent: those that are SENT.
        replied: those that are REPLIED.
        idled: those that are IDLED.
        by_idle: the same, in the order of their "idle".
    """

    __slots__ = ("by_idle", "count", "idled", "replied", "sent")

    def __init__(self) -> None:
        self.count = 0
        self.sent = _InState(State.SENT)
        self.replied = _InState(State.REPLIED)
        self.idled = _InState(State.IDLED)
        # A dict would search through all removed entries for the first one.
        self.by_idle: OrderedDict[Request, None] = OrderedDict()


class _InState:
    """The open executions of a line that are in one state, in the order in which they were sent.

    Entries of executions in another state are skipped when they are read.
    """

    __slots__ = ("_heap", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._heap: list[tuple[int, Request]] = []

    def add(self, request: Request, most: int) -> None:
        """Add an execution, of which there are *most* at the same time."""
        heapq.heappush(self._heap, (request.number, request))
        if len(self._heap) > 2 * most + _SHORT:
            self._heap = [entry for entry in self._heap if self._has(entry[1])]
            heapq.heapify(self._heap)

    def take_before(self, later: Request) -> list[Request]:
        """Remove and return those that were sent before a request."""
        found: list[Request] = []
        while self._heap and self._heap[0][0] < later.number:
            _, request = heapq.heappop(self._heap)
            if self._has(request):
                found.append(request)
        return found

    def _has(self, request: Request) -> bool:
        return request.is_open and request.state is self._state
