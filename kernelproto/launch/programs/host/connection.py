"""Connection: the connection of one program to the host."""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import frames
from .kernel import Kernel
from .receiving import receive

if TYPE_CHECKING:
    from .tls import TlsSocket

# Messages of the kernel wait in the kernel's log, not here, once a program is so far behind.
_HIGH_WATER = 2**20

# A program that asks and does not read the answers is disconnected.
_MOST_REPLIES = 16 * 2**20

# A message of so many bytes is not copied.
_LARGE = 4096

# Messages of the program are acknowledged in front of the next message of the kernel, which saves
# the program a wake-up. If there is none, they are acknowledged after this time, or as soon as they
# have so many bytes.
_ACKNOWLEDGE_SECONDS = 0.05
_ACKNOWLEDGE_BYTES = 2**20

# How many buffers are given to the system at once.
_BUFFERS = 64


class Connection:
    """The connection of one program, which may own a kernel.

    Args:
        end: the socket.
        answer: called with each request and its number; returns the answer, None for a later
            answer.

    Attributes:
        socket: the socket.
        kernel: the kernel that this program owns and receives messages of.
        is_over: whether the connection has to be closed.
        due: the time at which acknowledge() has to be called; None means not at all.
    """

    def __init__(
        self,
        end: socket.socket | TlsSocket,
        answer: Callable[[Connection, dict[str, Any], int], dict[str, Any] | None],
    ) -> None:
        self.socket = end
        self.kernel: Kernel | None = None
        self.is_over = False
        self.due: float | None = None
        self._answer = answer
        self._reader = frames.FrameReader(0)
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._replies_bytes = 0  # of these, all but messages of the kernel
        self._sent = 0  # the number of the last message of the kernel that was put into _unsent
        self._exit_sent = False
        self._is_behind = False  # whether messages were left in the log because there was no room
        self._passed: dict[int, int] = {}  # acknowledgements to send
        self._passed_bytes = 0  # the size of their messages
        self.put(frames.pack_json(frames.ANSWER, {"ok": {"version": frames.VERSION}}))

    @property
    def wants_to_write(self) -> bool:
        """Whether something can be sent once the socket is writable."""
        return bool(self._unsent) or self._is_behind

    def put(self, data: bytes) -> None:
        """Send bytes, now or as soon as possible."""
        if not self._unsent:
            self._replies_bytes = 0
        self._replies_bytes += len(data)
        self.is_over |= self._replies_bytes > _MOST_REPLIES
        self._append(data)

    def _append(self, data: bytes) -> None:
        self._unsent.append(memoryview(data))
        self._unsent_bytes += len(data)

    def answer(self, number: int, answer: dict[str, Any]) -> None:
        """Send the answer to a request."""
        self.put(frames.pack_json(frames.ANSWER, answer, number=number))

    def attach(self, kernel: Kernel, after: int) -> None:
        """Send the messages of a kernel behind the message *after* from now on."""
        self.kernel = kernel
        self._sent = after
        self._exit_sent = False
        self._reader.most = frames.MESSAGE_BYTES

    def disconnect(self, error: dict[str, Any]) -> None:
        """Tell the program why the connection is closed, and close the connection."""
        self.put(frames.pack_json(frames.CLOSED, {"error": error}))
        self.flush()
        self.is_over = True

    def receive(self) -> None:
        """Read and carry out the frames of the program."""
        try:
            data = receive(self.socket)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.is_over = error.errno not in (errno.ENOBUFS, errno.ENOMEM)
            return
        if not data:
            self.is_over = True
            return
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except frames.Broken as error:
            self.disconnect({"kind": "protocol", "reason": str(error)})
            return
        self.finish()
        self.pump()

    def pump(self) -> None:
        """Send the messages of the kernel that were not sent yet, as many as there is room for."""
        kernel = self.kernel
        self._is_behind = False
        if kernel is None or kernel.owner is not self:
            return
        while self._unsent_bytes < _HIGH_WATER:
            first, entries = kernel.log.read(self._sent)
            if not entries:
                if kernel.over and not self._exit_sent:
                    self._exit_sent = True
                    self.put(frames.pack_json(frames.EXITED, kernel.exit_message()))
                break
            self._put_acknowledgements()
            for number, (channel, message) in enumerate(entries, first):
                self._sent = number
                if message is None:
                    continue  # the program sees the loss by the numbers
                head = frames.header(frames.MESSAGE, len(message), channel=channel, number=number)
                if len(message) < _LARGE:
                    self._append(head + message)
                else:
                    self._append(head)
                    self._append(message)
                if self._unsent_bytes >= _HIGH_WATER:
                    break
        else:
            self._is_behind = True  # flush() may find room for all of these, and for more
        self.flush()

    def beat(self, message: bytes) -> None:
        """Send the answer to a heartbeat."""
        self.put(frames.pack(frames.MESSAGE, message, channel=frames.HB))
        self.flush()

    def passed(self, channel: int, number: int, size: int) -> None:
        """Acknowledge a message of *size* bytes of the program, after a while."""
        self._passed[channel] = number
        self._passed_bytes += size
        if self.due is None:
            self.due = time.monotonic() + _ACKNOWLEDGE_SECONDS

    def acknowledge(self) -> None:
        """Send the acknowledgements now."""
        self._put_acknowledgements()
        self.flush()

    def finish(self) -> None:
        """Send everything that waits, and acknowledgements that must not wait any longer."""
        if self._passed_bytes >= _ACKNOWLEDGE_BYTES:
            self._put_acknowledgements()
        self.flush()

    def _put_acknowledgements(self) -> None:
        for channel, number in self._passed.items():
            self.put(frames.pack(frames.ACK, channel=channel, number=number))
        self._passed.clear()
        self._passed_bytes = 0
        self.due = None

    def flush(self) -> None:
        """Send as much as the socket takes."""
        unsent = self._unsent
        try:
            while unsent:
                buffers = [unsent[number] for number in range(min(len(unsent), _BUFFERS))]
                sent = self.socket.sendmsg(buffers)
                self._unsent_bytes -= sent
                while sent:
                    size = len(unsent[0])
                    if size > sent:
                        unsent[0] = unsent[0][sent:]
                        break
                    sent -= size
                    unsent.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.is_over = error.errno not in (errno.ENOBUFS, errno.ENOMEM)

    def close(self, now: float) -> None:
        """Close the connection, and release the kernel."""
        self.socket.close()
        self._unsent.clear()
        if self.kernel is not None:
            self.kernel.release(self, now)

    def _take(self, frame: frames.Frame) -> None:
        if frame.kind == frames.REQUEST:
            answer = self._answer(self, frame.json(), frame.number)
            if answer is not None:
                self.answer(frame.number, answer)
            return
        kernel = self.kernel
        if kernel is None or (kernel.owner is not self and not kernel.removed):
            raise frames.Broken("only the owner of a kernel sends and acknowledges messages")
        if kernel.removed:
            return
        if frame.kind == frames.MESSAGE:
            if not kernel.take(frame.channel, frame.number, frame.body):
                raise frames.Broken(
                    f"message {frame.number} for {frames.CHANNELS[frame.channel]} is not the next "
                    "one, or more than the window allows"
                )
        elif frame.kind == frames.ACK:
            kernel.log.acknowledge(frame.number)
        else:
            raise frames.Broken(f"a program must not send frames of the kind {frame.kind}")
