"""Link: the socket to a fork server, which one thread reads and writes; POSIX only."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

_READ_BYTES = 64 * 1024

# How long to wait while the system has no memory for a message.
_SHORTAGE_SECONDS = 0.01

Message = Mapping[str, Any]


class Posted:
    """A message to be sent.

    Args:
        message: the message, in JSON types.
        descriptors: sent with the message; closed once the message has been sent or given up.
        refuse: called in the link's thread with the error if the system cannot send the message.
    """

    def __init__(
        self,
        message: Message,
        descriptors: Iterable[int] = (),
        refuse: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        self.unsent = memoryview(json.dumps(message).encode() + b"\n")
        self.descriptors = list(descriptors)
        self.refuse = refuse
        self.begun = False

    def close(self) -> None:
        """Close the descriptors; more than once is fine."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Link:
    """Sends messages to a fork server and receives messages, without blocking.

    Every method except run() is thread-safe.

    Args:
        end: this program's end of the pair of sockets.

    Raises:
        OSError: there are no file descriptors left.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._wake, self._waker = os.pipe()
        for descriptor in (self._wake, self._waker):
            os.set_blocking(descriptor, False)
        self._lock = threading.Lock()
        self._outbox: deque[Posted] = deque()
        self._received = b""
        self._closed = False

    def post(self, posted: Posted) -> None:
        """Queue a message; after close() the message is discarded."""
        with self._lock:
            if self._closed:
                posted.close()
                return
            if not self._outbox:
                with suppress(OSError):  # the thread tries again and handles the error
                    _send(self._socket, posted)
            if posted.unsent:
                self._outbox.append(posted)
            with suppress(BlockingIOError):  # the pipe is full, so the thread wakes up anyway
                os.write(self._waker, b".")

    def withdraw(self, posted: Posted) -> None:
        """Remove a message from the queue, unless a part has been sent."""
        with self._lock:
            if not posted.begun and posted in self._outbox:
                self._outbox.remove(posted)
                posted.close()

    def shut_down(self) -> None:
        """Shut the socket down, so that the server ends and run() returns."""
        with self._lock, suppress(OSError):  # the server has ended already
            if not self._closed:
                self._socket.shutdown(socket.SHUT_RDWR)

    def run(
        self,
        take: Callable[[dict[str, Any]], None],
        look: Callable[[bool, bool], bool],
        tick_seconds: float,
    ) -> None:
        """Send and receive until the server's end of the sockets is closed; call close() then.

        Args:
            take: called with each message that arrives.
            look: called after each wait with two flags: whether anything has arrived, and whether
                *tick_seconds* have passed since the flag was last true. Returns whether an answer
                is due, so that run() calls *look* again after a tick.
            tick_seconds: the length of a tick.
        """
        last_tick = time.monotonic()
        is_due = False
        while True:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._outbox else 0))
            ready = dict(poll.poll(tick_seconds * 1000 if is_due else None))
            if self._wake in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake, _READ_BYTES)
            has_news = ready.get(self._socket.fileno(), 0) & ~select.POLLOUT != 0
            if (has_news and not self._receive(take)) or not self._send():
                return
            has_ticked = time.monotonic() - last_tick >= tick_seconds
            if has_ticked:
                last_tick = time.monotonic()
            is_due = look(has_news, has_ticked)

    def close(self) -> None:
        """Close everything; discard the messages that have not been sent."""
        with self._lock:
            self._closed = True
            self._close()

    def leave_to_parent(self) -> None:
        """Close everything in a fork of this program, where another thread may hold the lock."""
        self._lock = threading.Lock()
        self.close()

    def _close(self) -> None:
        self._socket.close()
        if self._wake != -1:
            os.close(self._wake)
            os.close(self._waker)
            self._wake = self._waker = -1
        while self._outbox:
            self._outbox.popleft().close()

    def _receive(self, take: Callable[[dict[str, Any]], None]) -> bool:
        """Read messages; return whether the server is still connected."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        except OSError:
            # The system lacks memory or descriptors. The message stays in the socket.
            time.sleep(_SHORTAGE_SECONDS)
            return True
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            take(json.loads(line))
        return bool(data)

    def _send(self) -> bool:
        """Send messages without waiting; return whether the server is still connected."""
        while True:
            with self._lock:
                if not self._outbox:
                    return True
                posted = self._outbox[0]
                try:
                    _send(self._socket, posted)
                except BlockingIOError:
                    return True
                except ConnectionError:
                    return False
                except OSError as error:
                    shortage = error
                    if not posted.begun:
                        self._outbox.popleft().close()
                else:
                    if not posted.unsent:
                        self._outbox.popleft()
                    continue
            if posted.begun:
                time.sleep(_SHORTAGE_SECONDS)
                return True
            posted.refuse(shortage)


def _send(end: socket.socket, posted: Posted) -> None:
    """Send as much of a message as the socket takes; the first byte carries the descriptors."""
    if posted.descriptors:
        sent = socket.send_fds(end, [posted.unsent], posted.descriptors)
    else:
        sent = end.send(posted.unsent)
    posted.begun = True
    posted.close()
    posted.unsent = posted.unsent[sent:]
