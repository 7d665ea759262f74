"""Connections: limit the connections of the server and the WebSockets of each user."""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from starlette.types import Receive, Scope, Send

from kernelproto.server.rate_limit import RateLimit
from kernelproto.server.responses import RETRY_SECONDS, SECURITY_HEADERS, error_response

logger = logging.getLogger(__name__)

# Refused connections that may wait for a response at the same time, beside the admitted ones.
MAX_REFUSED = 64

_WARNINGS_PER_MINUTE = 6

# A burst of small frames may be as large as the permitted number in so many seconds.
_BURST_SECONDS = 5


class FewWarnings:
    """Log a few warnings per minute; clients can cause any number of them."""

    def __init__(self) -> None:
        self._rate = RateLimit(per_minute=_WARNINGS_PER_MINUTE, burst=1)

    def __call__(self, message: str) -> None:
        """Log a warning, or drop the warning after too many in the last minute."""
        if not self._rate.take("", time.monotonic()):
            logger.warning("%s", message)


class HttpConnection(Protocol):
    """A connection that a Connections object can close."""

    def displace(self) -> None:
        """Close the connection, which has no request."""
        ...


class Connections:
    """The open connections of one server.

    At the limit, a new connection replaces the one that has been without a request for the longest
    time. So a client that opens connections and sends nothing cannot lock others out. If every
    connection is a WebSocket or has a request, the new connection gets a 503 response.

    Args:
        most: the largest number of connections.
        frames_per_second: pings, pongs and small fragments of messages that a client may send on a
            WebSocket per second.

    Attributes:
        most: the largest number of connections.
        warn: logs a warning that a client has caused.
        open: the number of open connections, refused ones included.
        refused: the number of connections refused so far.
        displaced: the number of connections replaced so far.
    """

    def __init__(self, *, most: int = 1000, frames_per_second: float = 1000.0) -> None:
        self.open = 0
        self.refused = 0
        self.displaced = 0
        self.most = most
        self._frames_per_second = frames_per_second
        self._waiting: OrderedDict[HttpConnection, None] = (
            OrderedDict()
        )  # without a request, longest wait first
        self._refusing: set[HttpConnection] = set()
        self.warn = FewWarnings()

    def frame_budget(self) -> FrameBudget:
        """Return the budget of a new WebSocket."""
        return FrameBudget(self._frames_per_second)

    def admit(self, connection: HttpConnection) -> bool:
        """Add a new connection; return False if the connection must be refused.

        A refused connection counts as open until ``remove``. Answer with ``refuse`` if
        ``may_respond`` allows that, else close the connection at once.
        """
        if self.open - len(self._refusing) >= self.most:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                self.refused += 1
                self.warn(
                    f"refused a connection: all {self.most} connections (max_connections) have a "
                    f"request; refused so far: {self.refused}"
                )
                self._refusing.add(connection)
                self.open += 1
                return False
            del self._waiting[oldest]
            self.displaced += 1
            oldest.displace()
        self.open += 1
        self._waiting[connection] = None
        return True

    def may_respond(self) -> bool:
        """Return whether few enough refused connections wait for a response to add another one."""
        return len(self._refusing) <= MAX_REFUSED

    def wait_for_request(self, connection: HttpConnection) -> None:
        """Note that a connection has no request."""
        if connection not in self._refusing:
            self._waiting[connection] = None

    def begin_request(self, connection: HttpConnection) -> None:
        """Note that a connection has a request, or becomes a WebSocket."""
        self._waiting.pop(connection, None)

    def remove(self, connection: HttpConnection) -> None:
        """Note that a connection is closed."""
        self.open -= 1
        self._waiting.pop(connection, None)
        self._refusing.discard(connection)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the request of a refused connection."""
    response = error_response(
        503, f"the server has too many connections: try again in {RETRY_SECONDS} s"
    )
    response.headers.update({**SECURITY_HEADERS, "Connection": "close"})
    await response(scope, receive, send)


class FrameBudget:
    """The number of small frames that a client may still send. Pure.

    Args:
        per_second: the average number per second; a burst may have several times as many.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._spent = 0.0
        self._at = 0.0

    def spend(self, count: int, now: float) -> bool:
        """Count frames; return whether they are within the budget.

        Args:
            count: the number of frames.
            now: the time in seconds, from a monotonic clock.
        """
        self._spent = max(self._spent - (now - self._at) * self._per_second, 0.0) + count
        self._at = now
        return self._spent <= self._per_second * _BURST_SECONDS


class UserSockets:
    """The open WebSockets of each user.

    Args:
        most: the largest number per user.

    Attributes:
        most: the largest number per user.
        refused: the number of WebSockets refused so far.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: Counter[str] = Counter()
        self._warn = FewWarnings()
        self.refused = 0

    @property
    def users(self) -> int:
        """The number of users with an open WebSocket."""
        return len(self._open)

    @contextmanager
    def place(self, user: str) -> Generator[bool]:
        """Count a WebSocket of a user for the block; yield False if the user has too many."""
        has_room = self._open[user] < self.most
        if not has_room:
            self.refused += 1
            self._warn(
                f"refused a WebSocket: {user[:100]} has {self.most} "
                f"(max_websockets_per_user); refused so far: {self.refused}"
            )
        self._open[user] += has_room
        try:
            yield has_room
        finally:
            self._open[user] -= has_room
            if not self._open[user]:
                del self._open[user]
