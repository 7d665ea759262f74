"""Readiness: a kernel is ready when replies and iopub messages arrive."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import anyio

from kernelproto.client.reply import Reply
from kernelproto.concurrency.waiter import Waiter
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.conversation import Event
from kernelproto.wire.message import Message

# The phases, one after the other.
ANSWER = "kernel_info_reply"
SUBSCRIPTION = "iopub messages"

# The pauses before each further kernel_info_request, in seconds. A starting kernel reads the first
# request as soon as it listens; the further requests only guard against a lost one.
_ANSWER_SECONDS = (1.0, 2.0, 4.0)
# In this phase the client waits for the status messages of the next request.
_SUBSCRIPTION_SECONDS = (0.02, 0.05, 0.1, 0.5)

# The time for an idle kernel to answer on shell after the answer on control.
_IDLE_SECONDS = 0.2

Ask = Callable[[ChannelName], Awaitable[None]]


class Readiness:
    """Finds out whether a kernel is ready.

    The client asks on shell and on control, because a busy kernel answers only on control, and some
    kernels support kernel_info only on shell. The first message on iopub proves that iopub works:
    the welcome message for this client's own topic (JEP 65), or, from kernels without welcome
    messages, the status messages of further kernel_info_requests.

    Attributes:
        answered: the kernel's first answer to kernel_info.
        subscribed: set with the first message on iopub.
        awaited: the current phase, or the last one.
    """

    def __init__(self) -> None:
        self.answered = Reply()
        self._answered_on_shell = _ShellReply(self.answered)
        self.subscribed = Waiter[bool]()
        self.awaited = ANSWER

    @property
    def shell_answers(self) -> bool:
        """Whether the kernel has answered on shell; otherwise the kernel is busy."""
        return self._answered_on_shell.is_set

    def answer_on(self, channel: ChannelName) -> Reply:
        """Return the receiver of the kernel's answer on *channel*."""
        return self._answered_on_shell if channel == "shell" else self.answered

    async def wait(self, ask: Ask) -> Message:
        """Wait until the kernel is ready; set a deadline around the call.

        Args:
            ask: sends a kernel_info_request on a channel; the answer goes to ``answer_on``.

        Returns:
            The answer.
        """
        self.awaited = ANSWER
        await _ask_until(self.answered, ask, ("shell", "control"), _ANSWER_SECONDS)
        self.awaited = SUBSCRIPTION
        await _ask_until(self.subscribed, ask, ("shell",), _SUBSCRIPTION_SECONDS)
        with anyio.move_on_after(_IDLE_SECONDS):
            await self._answered_on_shell.wait()
        return await self.answered.wait()

    def fail(self, error: Exception) -> None:
        """End every wait with *error*."""
        self.answered.fail(error)
        self._answered_on_shell.fail(error)
        self.subscribed.fail(error)


class _ShellReply(Reply):
    """Waits for the answer on shell, which counts for control as well."""

    __slots__ = ("_either",)

    def __init__(self, either: Reply) -> None:
        super().__init__()
        self._either = either

    def receive(self, event: Event) -> None:
        super().receive(event)
        self._either.receive(event)


async def _ask_until(
    reached: Waiter[Any], ask: Ask, channels: Sequence[ChannelName], intervals: Sequence[float]
) -> None:
    for seconds in _with_last_repeated(intervals):
        if not reached.is_set:
            for channel in channels:
                await ask(channel)
        with anyio.move_on_after(seconds):
            await reached.wait()
            return


def _with_last_repeated(intervals: Sequence[float]) -> Iterator[float]:
    return itertools.chain(intervals, itertools.repeat(intervals[-1]))
