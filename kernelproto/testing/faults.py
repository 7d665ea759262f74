"""Faults: drop, delay or change messages between a FakeKernel and its clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import anyio

from kernelproto.transport.memory import MemoryTransport
from kernelproto.wire.codec import DELIMITER, Codec
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Frame, Message

Selector: TypeAlias = str | Callable[[Message], bool]
"""Selects messages: a msg_type, a kernel status such as ``"idle"``, or a predicate."""

Change: TypeAlias = Callable[[Sequence[Frame]], Iterable[Sequence[Frame]]]
"""Maps the frames of one message to the frames of the messages that arrive instead."""

_STATES = ("starting", "busy", "idle")


class Outgoing(NamedTuple):
    """A message that is being sent, the channel, and the receiving clients."""

    channel: ChannelName
    message: Message
    links: Sequence[MemoryTransport]


class Fault:
    """A fault that applies to some messages of a FakeKernel, from ``Faults``.

    Attributes:
        caught: the messages to which the fault was applied.
    """

    def __init__(self, faults: Faults, what: Selector, change: Change, times: int | None) -> None:
        self.caught: list[Message] = []
        self._faults = faults
        self._selects = _selector(what)
        self._change = change
        self._times = times
        self._first = anyio.Event()

    async def wait(self) -> Message:
        """Wait until the fault was applied to a message; return the first one."""
        await self._first.wait()
        return self.caught[0]

    def remove(self) -> None:
        """End the fault, which applies to no further message."""
        self._faults.remove(self)

    def selects(self, message: Message) -> bool:
        """Return whether the fault applies to *message*."""
        return (self._times is None or len(self.caught) < self._times) and self._selects(message)

    def apply(self, outgoing: Outgoing, frames: Sequence[Frame]) -> Iterable[Sequence[Frame]]:
        """Return the messages that arrive instead of *outgoing*, which has these *frames*."""
        self.caught.append(outgoing.message)
        self._first.set()
        return self._change(frames)


class Hold(Fault):
    """Holds messages back until ``remove()``, or until another message was sent before them."""

    def __init__(
        self, faults: Faults, what: Selector, until: Selector | None, times: int | None
    ) -> None:
        super().__init__(faults, what, _nothing, times)
        self._overtakes = _selector(until) if until is not None else _never
        self._held: list[Outgoing] = []

    def apply(self, outgoing: Outgoing, frames: Sequence[Frame]) -> Iterable[Sequence[Frame]]:
        self._held.append(outgoing)
        return super().apply(outgoing, frames)

    def remove(self) -> None:
        """Send the held messages in order, and end the fault."""
        super().remove()
        self._release(self._held)

    def overtaken(self, message: Message) -> None:
        """Send the held messages that wait for *message*; these have the same parent."""
        if self._overtakes(message):
            parent = message.parent_header
            self._release([one for one in self._held if one.message.parent_header == parent])

    def _release(self, messages: Sequence[Outgoing]) -> None:
        self._held = [outgoing for outgoing in self._held if outgoing not in messages]
        for outgoing in messages:
            self._faults.deliver(outgoing)


FaultT = TypeVar("FaultT", bound=Fault)


class Faults:
    """The faults of the messages that a FakeKernel sends: ``fake.faults``.

    Each method adds a fault that applies from now on, until its ``remove()`` or for a number of
    *times*. The first argument selects messages: by msg_type, by a kernel status such as
    ``"idle"``, or by a predicate on the Message. If two faults select the same message, the older
    fault is applied.

    Examples::

        faults.hold("stream", until="execute_reply")    # reply before outputs
        faults.hold("execute_reply", until="idle")      # idle before reply
        faults.hold("stream", until="idle")             # late outputs
        faults.drop("iopub_welcome")                    # a kernel without JEP 65
        faults.drop("kernel_info_reply")                # a kernel that never becomes ready
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._faults: list[Fault] = []

    def drop(self, what: Selector, *, times: int | None = None) -> Fault:
        """Lose messages."""
        return self.change(what, _nothing, times=times)

    def duplicate(self, what: Selector, *, times: int | None = None) -> Fault:
        """Send messages twice, bit for bit, like a replay attack."""
        return self.change(what, lambda frames: [frames, frames], times=times)

    def forge(self, what: Selector, *, times: int | None = None) -> Fault:
        """Sign messages with another key."""
        return self.change(what, _forged, times=times)

    def garble(self, what: Selector, *, times: int | None = None) -> Fault:
        """Send invalid frames instead of messages."""
        return self.change(what, lambda frames: [[b"garbage", b"\xff"]], times=times)

    def change(self, what: Selector, change: Change, *, times: int | None = None) -> Fault:
        """Replace messages.

        Args:
            what: selects the messages.
            change: maps the frames of one message to the frames of any number of messages.
            times: how many messages are changed; None means all.
        """
        return self._add(Fault(self, what, change, times))

    def hold(
        self, what: Selector, *, until: Selector | None = None, times: int | None = None
    ) -> Hold:
        """Hold messages back until the ``remove()`` of the returned fault.

        Args:
            what: selects the messages.
            until: selects a message with the same parent; the held messages follow that message.
            times: how many messages are held; None means all.
        """
        return self._add(Hold(self, what, until, times))

    def send(self, outgoing: Outgoing) -> None:
        """Send a message; apply the first matching fault."""
        for fault in self._faults:
            if fault.selects(outgoing.message):
                self.deliver(outgoing, fault)
                return
        self.deliver(outgoing)

    def deliver(self, outgoing: Outgoing, fault: Fault | None = None) -> None:
        """Send a message, with *fault* if given."""
        frames = self._codec.encode(outgoing.message, outgoing.message.identities)
        for arriving in [frames] if fault is None else fault.apply(outgoing, frames):
            for link in outgoing.links:
                link.send(outgoing.channel, arriving)
        if isinstance(fault, Hold):
            return  # the message is not sent yet
        for hold in [other for other in self._faults if isinstance(other, Hold)]:
            hold.overtaken(outgoing.message)

    def remove(self, fault: Fault) -> None:
        """Remove a fault."""
        self._faults = [other for other in self._faults if other is not fault]

    def _add(self, fault: FaultT) -> FaultT:
        self._faults.append(fault)
        return fault


def _selector(what: Selector) -> Callable[[Message], bool]:
    if not isinstance(what, str):
        return what
    if what in _STATES:
        return lambda message: (
            message.msg_type == "status" and message.content.execution_state == what
        )
    return lambda message: message.msg_type == what


def _nothing(frames: Sequence[Frame]) -> Iterable[Sequence[Frame]]:
    return []


def _forged(frames: Sequence[Frame]) -> Iterable[Sequence[Frame]]:
    signature = frames.index(DELIMITER) + 1
    return [[*frames[:signature], b"0" * len(frames[signature]), *frames[signature + 1 :]]]


def _never(message: Message) -> bool:
    return False
