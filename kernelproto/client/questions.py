"""The kernel's requests for input: ``input()`` in running code."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable

import anyio
from anyio import to_thread

from kernelproto.exceptions import LocalProtocolError
from kernelproto.log_counts import LogCounts
from kernelproto.wire.content import InputRequest
from kernelproto.wire.message import Message

logger = logging.getLogger(__name__)

OnInput = Callable[[InputRequest], str | Awaitable[str]]


class Questions:
    """The current question of one execution, if any.

    Args:
        on_input: answers the question; None means that the code may not ask.
        send: sends the answer.
    """

    __slots__ = ("_answering", "_asked", "_log_counts", "_on_input", "_send")

    def __init__(
        self, on_input: OnInput | None, send: Callable[[str, Message], Awaitable[None]]
    ) -> None:
        self._on_input = on_input
        self._send = send
        self._asked: Message | None = None
        self._answering: anyio.CancelScope | None = None
        self._log_counts = LogCounts()

    @property
    def needs_answer(self) -> bool:
        """Whether a question waits without a task that answers."""
        return self._asked is not None and self._answering is None

    def ask(self, question: Message) -> None:
        """Take in a question."""
        self._asked = question

    def withdraw(self) -> None:
        """Take note that the kernel no longer waits for an answer."""
        self._asked = None
        if self._answering is not None:
            self._answering.cancel()

    async def answer(self) -> None:
        """Answer the question, unless the kernel withdraws the question meanwhile.

        Raises:
            LocalProtocolError: the answer is not a str.
            Exception: an exception of *on_input*; the question stays open.
        """
        question = self._asked
        if question is None:
            return
        try:
            with anyio.CancelScope() as self._answering:
                text = await self._answer_to(question.content)
                if self._asked is question:
                    await self._send(text, question)
                if self._asked is question:
                    self._asked = None
        finally:
            self._answering = None

    async def _answer_to(self, question: InputRequest) -> str:
        if self._on_input is not None:
            return await _ask(self._on_input, question)
        # Without an answer the kernel would block, and all clients would wait indefinitely.
        text = "the kernel asks for input (%r) although allow_stdin is False: the answer is empty"
        self._log_counts.log(logger, logging.WARNING, "asked", text, question.prompt[:200])
        return ""


async def _ask(on_input: OnInput, question: InputRequest) -> str:
    if inspect.iscoroutinefunction(on_input):
        answer = await on_input(question)
    else:
        # The function may call input() or getpass(), which would block the event loop. A tuple
        # holds the answer, because Trio does not allow a thread to return an awaitable.
        (answer,) = await to_thread.run_sync(lambda: (on_input(question),), abandon_on_cancel=True)
        if inspect.isawaitable(answer):
            answer = await answer
    if not isinstance(answer, str):
        raise LocalProtocolError(f"on_input must return a str, not {type(answer).__name__}")
    return answer
