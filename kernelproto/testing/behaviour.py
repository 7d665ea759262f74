"""Behaviour: the default request handlers of a FakeKernel, and the scripts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import anyio

from kernelproto.testing.exchange import AnyContent, CodeError, Exchange
from kernelproto.wire import content as contents
from kernelproto.wire.message import Message

Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]
"""Handles one request: an async function that takes an Exchange."""


class Behaviour:
    """The kernel's handlers, one for each request type, and their state.

    Args:
        kernel_info: the reply to kernel_info_request.
        received: lists the requests so far.
        die: ends the kernel.

    Attributes:
        handlers: handlers by msg_type.
        scripts: pairs of a predicate on code and a handler; the first match is used.
        history: the code executed with ``store_history``.
    """

    def __init__(
        self,
        kernel_info: contents.KernelInfoReply,
        received: Callable[[], Sequence[Message]],
        die: Callable[[], None],
    ) -> None:
        self.handlers: dict[str, Handler] = {
            "execute_request": self._execute,
            "kernel_info_request": replying(kernel_info),
            "complete_request": _complete_with_nothing,
            "inspect_request": replying(contents.InspectReply()),
            "is_complete_request": replying(contents.IsCompleteReply(status="complete")),
            "history_request": self._tell_history,
            "comm_info_request": replying(contents.CommInfoReply()),
            "interrupt_request": self._interrupt,
            "shutdown_request": self._shut_down,
        }
        self.scripts: list[tuple[Callable[[str], bool], Handler]] = []
        self.history: list[str] = []
        self._received = received
        self._die = die
        self._executing: Exchange | None = None
        self._execution = anyio.CancelScope()
        self._aborted: set[str] = set()

    async def answer(self, exchange: Exchange) -> None:
        """Handle a request completely, from "busy" to "idle"."""
        request = exchange.request
        exchange.publish(contents.Status("busy"))
        if request.msg_id in self._aborted:
            exchange.reply(status="aborted", execution_count=None)
        elif request.msg_type in self.handlers:
            await _call(self.handlers[request.msg_type], exchange)
            if exchange.status is None:
                exchange.reply()
        exchange.publish(contents.Status("idle"))

    def answer_input(self, reply: Message) -> None:
        """Pass an input_reply to the running execution."""
        if self._executing is not None:
            self._executing.answer(reply)

    def interrupt(self) -> None:
        """Interrupt the running code, if any."""
        if self._executing is not None:
            self._execution.cancel()

    async def _execute(self, exchange: Exchange) -> None:
        request: contents.ExecuteRequest = exchange.content
        exchange.execution_count = len(self.history) + 1
        if request.store_history and not request.silent:
            self.history.append(request.code)
        if not request.silent:
            exchange.publish(contents.ExecuteInput(request.code, exchange.execution_count))
        with anyio.CancelScope() as self._execution:
            self._executing = exchange
            try:
                await _call(self._script(request.code), exchange)
            finally:
                self._executing = None
        if self._execution.cancelled_caught and exchange.status is None:
            exchange.error("KeyboardInterrupt")
        if exchange.status == "error" and request.stop_on_error:
            self._aborted = {
                message.msg_id
                for message in self._received()
                if message.msg_type == "execute_request"
            }

    def _script(self, code: str) -> Handler:
        return next((script for fits, script in self.scripts if fits(code)), _do_nothing)

    async def _tell_history(self, exchange: Exchange) -> None:
        request: contents.HistoryRequest = exchange.content
        entries = [
            (1, line, (code, None) if request.output else code)
            for line, code in enumerate(self.history, start=1)
        ]
        exchange.reply(contents.HistoryReply(history=entries[-(request.n or 0) :]))

    async def _interrupt(self, exchange: Exchange) -> None:
        self.interrupt()

    async def _shut_down(self, exchange: Exchange) -> None:
        exchange.reply(restart=exchange.content.restart)
        self._die()


def replying(content: AnyContent) -> Handler:
    """Return a handler that sends this reply."""

    async def reply(exchange: Exchange) -> None:
        exchange.reply(content)

    return reply


def playing(
    stdout: str,
    stderr: str,
    display: str | Mapping[str, Any] | None,
    result: str | Mapping[str, Any] | None,
    error: tuple[str, str] | None,
) -> Handler:
    """Return a handler that publishes these outputs in this order."""

    async def play(exchange: Exchange) -> None:
        if stdout:
            exchange.stream(stdout)
        if stderr:
            exchange.stream(stderr, "stderr")
        if display is not None:
            exchange.display(display)
        if result is not None:
            exchange.result(result)
        if error is not None:
            exchange.error(*error)

    return play


async def _call(handler: Handler, exchange: Exchange) -> None:
    try:
        await handler(exchange)
    except CodeError as error:
        exchange.error(error.ename, error.evalue)


async def _do_nothing(exchange: Exchange) -> None:
    pass


async def _complete_with_nothing(exchange: Exchange) -> None:
    position = cast("int", exchange.content.cursor_pos)
    exchange.reply(cursor_start=position, cursor_end=position)
