"""Faults: what can go wrong with a message between a FakeKernel and its clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import anyio

from kernelproto.transport.memory import MemoryTransport
from kernelproto.wire.codec import DELIMITER, Codec
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Frame, Message

Selector: TypeAlias = str | Callable[[Message], bool]
"""Which messages: a msg_type, a kernel status such as ``"idle"``, or a function that tells."""

Change: TypeAlias = Callable[[Sequence[Frame]], Iterable[Sequence[Frame]]]
"""From the frames of one message to those of the messages that arrive in its place."""

_STATES = ("starting", "busy", "idle")


class Outgoing(NamedTuple):
    """A message on its way, its channel, and the clients that it goes to."""

    channel: ChannelName
    message: Message
    links: Sequence[MemoryTransport]


class Fault:
    """Befalls some of the messages that a FakeKernel sends; ``Faults`` makes it.

    Attributes:
        caught: the messages that it has befallen.
    """

    def __init__(self, faults: Faults, what: Selector, change: Change, times: int | None) -> None:
        self.caught: list[Message] = []
        self._faults = faults
        self._selects = _selector(what)
        self._change = change
        self._times = times
        self._first = anyio.Event()

    async def wait(self) -> Message:
        """Wait until it has befallen a message; return the first."""
        await self._first.wait()
        return self.caught[0]

    def remove(self) -> None:
        """Let it apply no further message."""
        self._faults.remove(self)

    def selects(self, message: Message) -> bool:
        """Return whether it is going to apply *message*."""
        return (self._times is None or len(self.caught) < self._times) and self._selects(message)

    def apply(self, outgoing: Outgoing, frames: Sequence[Frame]) -> Iterable[Sequence[Frame]]:
        """Return what arrives in place of *outgoing*, whose frames these are."""
        self.caught.append(outgoing.message)
        self._first.set()
        return self._change(frames)


class Hold(Fault):
    """Keeps messages back until it is lifted, or until another message has gone ahead of them."""

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
        """Send what was kept back, in order, and keep nothing back any more."""
        super().remove()
        self._release(self._held)

    def overtaken(self, message: Message) -> None:
        """Release what waited for *message*, if it did; only messages with the same parent do."""
        if self._overtakes(message):
            parent = message.parent_header
            self._release([one for one in self._held if one.message.parent_header == parent])

    def _release(self, letters: Sequence[Outgoing]) -> None:
        self._held = [outgoing for outgoing in self._held if outgoing not in letters]
        for outgoing in letters:
            self._faults.deliver(outgoing)


FaultT = TypeVar("FaultT", bound=Fault)


class Faults:
    """Everything that goes wrong with the messages that a FakeKernel sends: ``fake.faults``.

    Each method arranges for a fault, from now on, until its ``lift()`` or for so many *times*. What
    it befalls is a msg_type, a kernel status such as ``"idle"``, or what a function says about a
    Message. Where two faults select the same message, the one that was arranged first counts.

    A few arrangements of interest::

        faults.hold("stream", until="execute_reply")    # reply before outputs
        faults.hold("execute_reply", until="idle")      # idle before reply
        faults.hold("stream", until="idle")             # late outputs
        faults.drop("iopub_welcome")                    # a kernel before JEP 65
        faults.drop("kernel_info_reply")                # one that never becomes ready
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._arranged: list[Fault] = []

    def drop(self, what: Selector, *, times: int | None = None) -> Fault:
        """Lose messages."""
        return self.change(what, _nothing, times=times)

    def duplicate(self, what: Selector, *, times: int | None = None) -> Fault:
        """Send messages twice, to the last bit, as a replay does."""
        return self.change(what, lambda frames: [frames, frames], times=times)

    def forge(self, what: Selector, *, times: int | None = None) -> Fault:
        """Sign messages with another key."""
        return self.change(what, _forged, times=times)

    def garble(self, what: Selector, *, times: int | None = None) -> Fault:
        """Send frames that are no message."""
        return self.change(what, lambda frames: [[b"garbage", b"\xff"]], times=times)

    def change(self, what: Selector, change: Change, *, times: int | None = None) -> Fault:
        """Send something else in place of messages.

        Args:
            what: which messages.
            change: from the frames of one message to those of the messages that arrive, any number.
            times: how many messages it befalls; None means all.
        """
        return self._arrange(Fault(self, what, change, times))

    def hold(
        self, what: Selector, *, until: Selector | None = None, times: int | None = None
    ) -> Hold:
        """Keep messages back until the hold's ``lift()``.

        Args:
            what: which messages.
            until: send them right after this one with the same parent, if it comes earlier.
            times: how many messages it befalls; None means all.
        """
        return self._arrange(Hold(self, what, until, times))

    def send(self, outgoing: Outgoing) -> None:
        """Send a message, with what goes wrong on its way."""
        for fault in self._arranged:
            if fault.selects(outgoing.message):
                self.deliver(outgoing, fault)
                return
        self.deliver(outgoing)

    def deliver(self, outgoing: Outgoing, fault: Fault | None = None) -> None:
        """Send a message, with this fault or with none."""
        frames = self._codec.encode(outgoing.message, outgoing.message.identities)
        for arriving in [frames] if fault is None else fault.apply(outgoing, frames):
            for link in outgoing.links:
                link.send(outgoing.channel, arriving)
        if isinstance(fault, Hold):
            return  # it overtakes nobody before it is released
        for hold in [other for other in self._arranged if isinstance(other, Hold)]:
            hold.overtaken(outgoing.message)

    def remove(self, fault: Fault) -> None:
        """Let *fault* apply no further message."""
        self._arranged = [other for other in self._arranged if other is not fault]

    def _arrange(self, fault: FaultT) -> FaultT:
        self._arranged.append(fault)
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
