"""PURE: the client's side of the protocol of a host, across connections.

Theory of operation
-------------------
An attachment goes on across connections. The kernel's messages have numbers, so that after a lost
connection the host sends those after the last received one. The client also numbers its messages on
each channel, and keeps them until the host has acknowledged that the kernel has them; all others
are sent again. ``programs/host/frames.py`` has the format.

The client acknowledges the kernel's messages on arrival. After ``hold()`` the client acknowledges
only the messages that the caller confirms, so that the next owner of the kernel gets the others
again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from kernelproto.exceptions import RemoteProtocolError
from kernelproto.interfaces import Deliver
from kernelproto.launch.programs.host import frames as link
from kernelproto.launch.programs.host import zmtp
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Frame

# Messages that arrive before the channels are opened are held up to this size. The host sends
# others again.
_HELD_BYTES = 2**20

# Received messages are acknowledged at once when there are so many, and otherwise after a while.
_ACKNOWLEDGE_MESSAGES = 256

_NUMBERS: Mapping[str, int] = {name: number for number, name in enumerate(link.CHANNELS)}
_NAMES: Sequence[ChannelName] = ("shell", "iopub", "stdin", "control", "hb")

State = Literal["greeting", "attaching", "attached"]


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request.

    Args:
        number: the number of the request; 0 for that with which the connection was attached.
        ok: the result; None if the request was refused.
        error: the refusal, with "kind" and "reason".
    """

    number: int
    ok: Mapping[str, Any] | None = None
    error: Mapping[str, Any] = {}


class KernelExit(msgspec.Struct, frozen=True):
    """How the process of a kernel has ended; None means unknown.

    Args:
        returncode: the exit status, negative for a signal.
        cpu_seconds: the CPU time of the process and of its reaped children.
        peak_memory: the largest peak of memory of one of these processes, in bytes.
        tail: the last 64 KiB of the output.
    """

    returncode: int | None = None
    cpu_seconds: float = 0.0
    peak_memory: int | None = None
    tail: str = ""


class HostProtocol:
    """The client's side of an attachment.

    Args:
        first: the request of the first connection, "start" or "attach", without the arguments
            below. Later connections attach.
        kernel_id: the id of the kernel.
        claim: the secret of the owner.
        attachment: the id in which the client numbers messages.
        replays: whether an attached kernel sends all messages that the host still has, even the
            acknowledged ones, and the client holds them.

    Attributes:
        state: the state of the connection.
        last: the number of the last message that was received.
        acknowledged: the number of the last message that this or an earlier client acknowledged.
        lost: how many messages were lost, because the log of the host was full.
        exit: how the kernel has ended; None while running.
        closed: the reason why the host has closed the connection, or None.
        is_stale: whether messages were discarded that the next connection will bring again.
    """

    def __init__(
        self,
        first: Mapping[str, Any],
        *,
        kernel_id: str,
        claim: str,
        attachment: str,
        replays: bool = False,
    ) -> None:
        self.state: State = "greeting"
        self.last = 0
        self.acknowledged = 0
        self.lost = 0
        self.exit: KernelExit | None = None
        self.closed: Mapping[str, Any] | None = None
        self.is_stale = False
        self._first: Mapping[str, Any] | None = first
        self._identity = {"kernel": kernel_id, "claim": claim, "attachment": attachment}
        self._knows_last = False
        self._reader = link.FrameReader(link.MESSAGE_BYTES)
        self._output: list[bytes] = []
        self._requests: dict[int, bytes] = {}
        self._next_request = 1
        self._replays = replays
        self._confirmed: int | None = 0 if replays else None  # None: acknowledge all that arrive
        self._deliver: Deliver | None = None
        self._held: list[link.Frame] = []
        self._held_bytes = 0
        self._sent = [0] * len(link.CHANNELS)
        self._unacknowledged: list[deque[tuple[int, bytes]]] = [deque() for _ in link.CHANNELS]
        self._unacknowledged_bytes = [0] * len(link.CHANNELS)

    @property
    def to_acknowledge(self) -> int:
        """How many messages may be acknowledged now."""
        last = self.last if self._confirmed is None else min(self._confirmed, self.last)
        return max(last - self.acknowledged, 0)

    @property
    def has_output(self) -> bool:
        """Whether there are bytes to send."""
        return bool(self._output)

    def connected(self) -> None:
        """Begin a connection."""
        self.state = "greeting"
        self.closed = None
        self.is_stale = False
        self._reader = link.FrameReader(link.MESSAGE_BYTES)
        self._output.clear()

    def disconnected(self) -> None:
        """Note that the connection has ended."""
        self.state = "greeting"

    def output(self) -> bytes:
        """Return the bytes to send."""
        if len(self._output) == 1:
            return self._output.pop()
        data = b"".join(self._output)
        self._output.clear()
        return data

    def deliver_to(self, deliver: Deliver | None) -> None:
        """Hand received messages to a function; None stops that."""
        self._deliver = deliver
        if deliver is not None:
            held, self._held, self._held_bytes = self._held, [], 0
            for frame in held:
                self._hand_over(frame)

    def receive(self, data: bytes) -> list[Answer]:
        """Take in bytes from the host; deliver the messages, and return the answers.

        Raises:
            RemoteProtocolError: the host does not speak this protocol, or another version.
        """
        answers: list[Answer] = []
        try:
            for frame in self._reader.feed(data):
                if frame.kind == link.MESSAGE:
                    self._take_message(frame)
                elif frame.kind == link.ACK:
                    self._forget_sent(frame.channel, frame.number)
                elif frame.kind == link.EXITED:
                    self.exit = msgspec.convert(frame.json(), KernelExit, strict=False)
                elif frame.kind == link.CLOSED:
                    self.closed = dict(frame.json().get("error") or {})
                else:
                    self._take_answer(frame, answers)
        except (link.Broken, zmtp.ProtocolFault, msgspec.ValidationError) as error:
            raise RemoteProtocolError(f"the host of the kernel is broken: {error}") from None
        if self.to_acknowledge >= _ACKNOWLEDGE_MESSAGES:
            self.acknowledge()
        return answers

    def acknowledge(self) -> None:
        """Acknowledge all messages that may be acknowledged."""
        count = self.to_acknowledge
        if self.state == "attached" and count:
            self.acknowledged += count
            self._output.append(link.pack(link.ACK, number=self.acknowledged))

    def hold(self) -> None:
        """Acknowledge only messages that are confirmed from now on."""
        if self._confirmed is None:
            self._confirmed = self.acknowledged

    def confirm(self, number: int) -> None:
        """Have all messages up to a number acknowledged; may be lower than an earlier number."""
        if self._confirmed is not None and number > self._confirmed:
            self._confirmed = number

    def request(self, operation: str, arguments: Mapping[str, Any]) -> int:
        """Send a request about the kernel, now or on the next connection; return the number."""
        number = self._next_request
        self._next_request += 1
        claim = {"kernel": self._identity["kernel"], "claim": self._identity["claim"]}
        body = json.dumps({"op": operation, **claim, **arguments}).encode()
        self._requests[number] = link.pack(link.REQUEST, body, number=number)
        if self.state == "attached":
            self._output.append(self._requests[number])
        return number

    def withdraw(self, number: int) -> None:
        """Do not send a request again on the next connection."""
        self._requests.pop(number, None)

    def has_room(self, channel: ChannelName, size: int) -> bool:
        """Return whether a message of *size* bytes may be sent now."""
        waiting = self._unacknowledged_bytes[_NUMBERS[channel]]
        return not waiting or waiting + size <= link.WINDOW_BYTES

    def send(self, channel: ChannelName, message: bytes) -> None:
        """Send a message from zmtp.join(), now or on the next connection."""
        place = _NUMBERS[channel]
        if place == link.HB:
            if self.state == "attached":
                self._output.append(link.pack(link.MESSAGE, message, channel=place))
            return
        self._sent[place] += 1
        frame = link.pack(link.MESSAGE, message, channel=place, number=self._sent[place])
        self._unacknowledged[place].append((self._sent[place], frame))
        self._unacknowledged_bytes[place] += len(frame)
        if self.state == "attached":
            self._output.append(frame)

    def discard(self) -> None:
        """Do not send messages again, because the kernel has ended."""
        for place, unacknowledged in enumerate(self._unacknowledged):
            unacknowledged.clear()
            self._unacknowledged_bytes[place] = 0

    def _take_answer(self, frame: link.Frame, answers: list[Answer]) -> None:
        body = frame.json()
        if frame.kind != link.ANSWER:
            raise link.Broken(f"a frame of the kind {frame.kind}")
        if self.state == "greeting":
            check_greeting(frame)
            self._attach()
            return
        answer = Answer(frame.number, body.get("ok"), body.get("error") or {})
        if self.state == "attaching":
            if answer.ok is not None:
                self._first = None
                self._resume(answer.ok)
        else:
            self._requests.pop(answer.number, None)
        answers.append(answer)

    def _attach(self) -> None:
        """Send the first request of a connection."""
        self.state = "attaching"
        request = self._first
        if request is None:
            after = self.last if self._knows_last else None
            request = {"op": "attach", "after": after}
        self._output.append(link.pack_json(link.REQUEST, {**request, **self._identity}))

    def _resume(self, ok: Mapping[str, Any]) -> None:
        """Go on with a connection that the host has attached."""
        self.state = "attached"
        if not self._knows_last:
            self._knows_last = True
            after = int(ok.get("after", 0))
            self.acknowledged = int(ok.get("acknowledged", after)) if self._replays else after
            self.last = after
            if self._replays:  # the host may have discarded the oldest messages
                self.last += int(ok.get("lost", 0))
                self.lost += max(self.last - self.acknowledged, 0)
        for place, number in enumerate(ok.get("passed", ())):
            self._forget_sent(place, number)
        self._output += self._requests.values()
        for unacknowledged in self._unacknowledged:
            self._output += [frame for _, frame in unacknowledged]

    def _forget_sent(self, place: int, number: int) -> None:
        unacknowledged = self._unacknowledged[place]
        while unacknowledged and unacknowledged[0][0] <= number:
            self._unacknowledged_bytes[place] -= len(unacknowledged.popleft()[1])

    def _take_message(self, frame: link.Frame) -> None:
        if self.state != "attached":
            raise link.Broken("a message before the connection was attached")
        if self.is_stale:
            return
        if self._deliver is not None:
            self._hand_over(frame)
            return
        self._held_bytes += len(frame.body)
        if self._held_bytes > _HELD_BYTES:
            self._held.clear()
            self._held_bytes = 0
            self.is_stale = True
        else:
            self._held.append(frame)

    def _hand_over(self, frame: link.Frame) -> None:
        assert self._deliver is not None
        if frame.channel != link.HB:
            if frame.number <= self.last:
                return  # received on an earlier connection
            self.lost += frame.number - self.last - 1
            self.last = frame.number
        parts: Sequence[Frame] = zmtp.split(frame.body)
        self._deliver(_NAMES[frame.channel], parts)


def check_greeting(frame: link.Frame) -> None:
    """Check the first frame of a host.

    Raises:
        link.Broken: the host does not speak this version of the protocol.
    """
    ok: dict[str, Any] = frame.json().get("ok") or {}
    version = ok.get("version")
    if frame.number or version != link.VERSION:
        raise link.Broken(
            f"it speaks version {version!r} of the protocol, and this program {link.VERSION}: end "
            "its kernels, or use the version of kernelproto that has started them"
        )
