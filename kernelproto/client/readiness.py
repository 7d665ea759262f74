"""Readiness: a kernel is ready when it answers, and when its iopub messages arrive."""

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

# How long to wait before kernel_info is asked again, in seconds. A kernel that starts finds the
# first question as soon as it listens, so asking again only guards against one that was lost.
_ANSWER_SECONDS = (1.0, 2.0, 4.0)
# Here it is the status messages of the next question that are waited for.
_SUBSCRIPTION_SECONDS = (0.02, 0.05, 0.1, 0.5)

# How long a kernel that has answered on control may take to answer on shell, if it is idle.
_IDLE_SECONDS = 0.2

Ask = Callable[[ChannelName], Awaitable[None]]


class Readiness:
    """Whether a kernel is ready, as far as it is known.

    The kernel is asked on shell and on control, because a busy one answers on control alone and
    some know kernel_info on shell alone. The first message on iopub proves that iopub works: the
    welcome message for this client's own topic (JEP 65), or, from kernels without it, the status
    messages of further kernel_info_requests.

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
        """Whether the kernel has answered on shell; otherwise it is busy there."""
        return self._answered_on_shell.is_set

    def answer_on(self, channel: ChannelName) -> Reply:
        """Return the receiver of the kernel's answer on *channel*."""
        return self._answered_on_shell if channel == "shell" else self.answered

    async def wait(self, ask: Ask) -> Message:
        """Wait until the kernel is ready; set a deadline around it.

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
    """Waits for the answer on shell, which is an answer to the question on control as well."""

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
