"""Channel: the connection of the host to one channel of a kernel."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable

from . import zmtp
from .receiving import receive

# The kernel listens some time after the start, and may close a connection and accept another.
_FIRST_RETRY_SECONDS = 0.002
_LAST_RETRY_SECONDS = 0.05


class Channel:
    """The connection of the host to one channel of a kernel.

    Messages for the kernel are passed one after the other. If the connection breaks, the message
    that was under way is sent again on the next one.

    Args:
        path: the path of the kernel's socket.
        socket_type: ``b"DEALER"`` or ``b"SUB"``.
        identity: the routing identity.
        most: the maximum size of a message from the kernel.
        deliver: called with each message from the kernel; None stands for one that was too large.
        passed: called with the number and the size of each message that was passed to the kernel;
            the number is 0 for a message without one.

    Attributes:
        socket: the socket; None while there is no connection.
        retry_at: the time of the next attempt to connect.
        unsent_bytes: the size of the messages that were not passed to the kernel.
    """

    def __init__(
        self,
        path: str,
        socket_type: bytes,
        identity: bytes,
        most: int,
        deliver: Callable[[bytes | None], None],
        passed: Callable[[int, int], None],
    ) -> None:
        self.socket: socket.socket | None = None
        self.retry_at = 0.0
        self.unsent_bytes = 0
        self._path = path
        self._socket_type = socket_type
        self._identity = identity
        self._most = most
        self._deliver = deliver
        self._passed = passed
        self._receiver = zmtp.Receiver(most)
        self._handshake = b""
        self._ready_sent = False
        self._unsent: deque[tuple[int, bytes]] = deque()
        self._offset = 0  # the bytes of the first unsent message that were sent
        self._retry_seconds = _FIRST_RETRY_SECONDS

    @property
    def wants_to_write(self) -> bool:
        """Whether something can be sent once the socket is writable."""
        return bool(self._handshake or (self._receiver.is_ready and self._unsent))

    def connect(self, now: float) -> bool:
        """Try to connect; return whether there is a connection."""
        attempt = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        attempt.setblocking(False)
        try:
            attempt.connect(self._path)
        except OSError:  # the kernel does not listen yet
            attempt.close()
            self.retry_at = now + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY_SECONDS)
            return False
        self.socket = attempt
        self._receiver = zmtp.Receiver(self._most)
        self._handshake = zmtp.GREETING
        self._ready_sent = False
        self._offset = 0
        return True

    def send(self, number: int, message: bytes) -> None:
        """Pass a message to the kernel, now or as soon as possible."""
        self._unsent.append((number, message))
        self.unsent_bytes += len(message)
        self.flush()

    def forget_numbers(self) -> None:
        """Pass the unsent messages to the kernel without reporting their numbers."""
        self._unsent = deque((0, message) for _, message in self._unsent)

    def receive(self) -> bool:
        """Read from the kernel; return False if the connection is broken."""
        assert self.socket is not None
        try:
            data = receive(self.socket)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as error:
            return error.errno in (errno.ENOBUFS, errno.ENOMEM)
        if not data:
            return False
        try:
            messages = self._receiver.feed(data)
        except zmtp.ProtocolFault:
            return False
        if self._receiver.answers:
            self._handshake += self._receiver.answers
            self._receiver.answers = b""
        if self._receiver.greeted and not self._ready_sent:
            self._ready_sent = True
            self._handshake += zmtp.ready(self._socket_type, self._identity)
            if self._socket_type == b"SUB":
                self._handshake += zmtp.SUBSCRIPTION
        if self._receiver.is_ready:
            self._retry_seconds = _FIRST_RETRY_SECONDS
        for message in messages:
            self._deliver(message)
        return self.flush()

    def flush(self) -> bool:
        """Send as much as the socket takes; return False if the connection is broken."""
        if self.socket is None:
            return True
        try:
            # Commands go between two messages.
            while self._handshake and not self._offset:
                self._handshake = self._handshake[self.socket.send(self._handshake) :]
            while self._unsent and self._receiver.is_ready:
                number, message = self._unsent[0]
                with memoryview(message) as view:
                    self._offset += self.socket.send(view[self._offset :])
                if self._offset < len(message):
                    break
                self._offset = 0
                self._unsent.popleft()
                self.unsent_bytes -= len(message)
                self._passed(number, len(message))
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as error:
            return error.errno in (errno.ENOBUFS, errno.ENOMEM)
        return True

    def close(self, now: float = 0.0) -> None:
        """Close the connection; *now* begins the time until the next attempt."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
            self.retry_at = now + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, _LAST_RETRY_SECONDS)
