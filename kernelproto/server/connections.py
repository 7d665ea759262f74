"""Connections: how many there may be, in all and for each user, and which of them give way."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from starlette.types import Receive, Scope, Send

from kernelproto.server.program.pacing import Pacer
from kernelproto.server.rate_limit import RateLimit
from kernelproto.server.responses import RETRY_SECONDS, SECURITY_HEADERS, error_response

logger = logging.getLogger(__name__)

# Connections that are told why they are refused, beside those that are served.
MOST_REFUSED = 64

_WARNINGS_PER_MINUTE = 6

# Pings, pongs and small pieces of messages: so many at once, in seconds of the permitted rate.
_BURST_SECONDS = 5


class FewWarnings:
    """Logs warnings about clients, a few in a minute: clients choose how many there are."""

    def __init__(self) -> None:
        self._rate = RateLimit(per_minute=_WARNINGS_PER_MINUTE, burst=1)

    def __call__(self, message: str) -> None:
        if not self._rate.take("", time.monotonic()):
            logger.warning("%s", message)


class HttpConnection(Protocol):
    """An HTTP connection, as far as this module is concerned."""

    def give_way(self) -> None:
        """Close the connection, on which no request is being answered."""
        ...


class Connections:
    """The connections of one server.

    When all are in use, a new connection takes the place of the one that has waited longest for a
    request. So a client that opens connections and sends nothing keeps no other client out. Only
    where all connections are WebSockets, or have a request, is a new one answered 503.

    Args:
        most: how many connections there may be.
        frames_per_second: how many pings, pongs and small pieces of messages a WebSocket's client
            may send in a second.

    Attributes:
        most: how many there may be.
        pacer: shares the turns of the event loop between them.
        warn: logs a warning about clients.
        open: how many there are.
        refused: how many were refused so far.
        displaced: how many were closed to make room.
    """

    def __init__(self, *, most: int = 1000, frames_per_second: float = 1000.0) -> None:
        self.pacer = Pacer()
        self.open = 0
        self.refused = 0
        self.displaced = 0
        self.most = most
        self._frames_per_second = frames_per_second
        self._waiting: dict[HttpConnection, None] = {}  # those without a request, oldest first
        self._refusing: set[HttpConnection] = set()
        self.warn = FewWarnings()

    def frame_budget(self) -> FrameBudget:
        """Return the budget of a new WebSocket."""
        return FrameBudget(self._frames_per_second)

    def admit(self, connection: HttpConnection) -> bool:
        """Count a new connection, and make room for it; return whether it is served.

        One that is not has to be closed at once, or answered by ``refuse``; see ``may_be_told``.
        """
        if self.open - len(self._refusing) >= self.most:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                self.refused += 1
                self.warn(
                    f"a connection is refused: {self.most} connections are open, and all have a "
                    f"request (max_connections); refused so far: {self.refused}"
                )
                self._refusing.add(connection)
                self.open += 1
                return False
            del self._waiting[oldest]
            self.displaced += 1
            oldest.give_way()
        self.open += 1
        self._waiting[connection] = None
        return True

    def may_be_told(self) -> bool:
        """Return whether a refused connection can be answered; there are few places for that."""
        return len(self._refusing) <= MOST_REFUSED

    def wait_for_request(self, connection: HttpConnection) -> None:
        """Take note that a connection has no request now."""
        if connection not in self._refusing:
            self._waiting[connection] = None

    def begin_request(self, connection: HttpConnection) -> None:
        """Take note that a connection has a request, or becomes a WebSocket."""
        self._waiting.pop(connection, None)

    def remove(self, connection: HttpConnection) -> None:
        """Take note that a connection is closed."""
        self.open -= 1
        self._waiting.pop(connection, None)
        self._refusing.discard(connection)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request on a connection that is refused."""
    response = error_response(
        503, f"the server has no room for more connections: try again in {RETRY_SECONDS} s"
    )
    response.headers.update({**SECURITY_HEADERS, "Connection": "close"})
    await response(scope, receive, send)


class FrameBudget:
    """How many small frames a client may still send. Pure.

    Args:
        per_second: how many on average; several times as many at once.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._spent = 0.0
        self._at = 0.0

    def spend(self, count: int, now: float) -> bool:
        """Count frames; return whether they were within the budget.

        Args:
            count: how many there were.
            now: the time in seconds, on a clock that does not go back.
        """
        self._spent = max(self._spent - (now - self._at) * self._per_second, 0.0) + count
        self._at = now
        return self._spent <= self._per_second * _BURST_SECONDS


class UserSockets:
    """The WebSockets of each user.

    Args:
        most: how many a user may have.

    Attributes:
        most: how many a user may have.
        refused: how many were refused so far.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: Counter[str] = Counter()
        self._warn = FewWarnings()
        self.refused = 0

    @property
    def users(self) -> int:
        """How many users have one."""
        return len(self._open)

    @contextmanager
    def place(self, user: str) -> Generator[bool]:
        """Take a place for a user's WebSocket for the block; give whether there was one."""
        has_room = self._open[user] < self.most
        if not has_room:
            self.refused += 1
            self._warn(
                f"a WebSocket is refused: {user[:100]} has {self.most} "
                f"(max_websockets_per_user); refused so far: {self.refused}"
            )
        self._open[user] += has_room
        try:
            yield has_room
        finally:
            self._open[user] -= has_room
            if not self._open[user]:
                del self._open[user]
