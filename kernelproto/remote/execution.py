"""Sends one execution to a server, and hands the events of the response to the Execution.

The events become messages of a kernel again, so an Execution over HTTP is the same as any other.

If the connection is lost, the request is sent again with the same Idempotency-Key. The server then
sends the events from the first one; those that have been received before are skipped. After
RECONNECT_SECONDS without a connection that works, the execution fails.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import httpx
import msgspec
from anyio import get_cancelled_exc_class
from anyio.abc import TaskGroup, TaskStatus

from kernelproto.client.execution import Execution
from kernelproto.concurrency.task_groups import start_logged
from kernelproto.exceptions import (
    ClientClosed,
    ExecutionTimeout,
    KernelProtoError,
    LocalProtocolError,
    MalformedMessage,
)
from kernelproto.remote.events import Failure, decode_line, error_content, output_of
from kernelproto.remote.exceptions import RemoteServerError, ServerUnreachable
from kernelproto.remote.failures import error_of
from kernelproto.remote.models import ExecuteRequest, InterruptRequest
from kernelproto.remote.requests import Requests, refusal
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.conversation import Conversation
from kernelproto.wire.message import Message, MessageFactory

RECONNECT_SECONDS = 30.0

# The pause before a connection is made again; each is twice as long as the one before.
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0

# The server is shutting down or has too many connections, or a proxy does not reach the server.
_TEMPORARY = (502, 503, 504)

# The time that a cancelled task waits for the interrupt of its code.
_INTERRUPT_SECONDS = 2.0

_TIMEOUTS = Timeouts()


class _Interrupted(Exception):
    """The stream has ended before the execution."""


class ExecutionRequest:
    """Implements ExecutionSender for one execution.

    Args:
        requests: sends requests to the server.
        tasks: runs the tasks that read the response.
        context_id: the context.
        body: the request.
        key: the Idempotency-Key, which no other execution has.
    """

    def __init__(
        self, requests: Requests, tasks: TaskGroup, context_id: str, body: ExecuteRequest, key: str
    ) -> None:
        self._requests = requests
        self._tasks = tasks
        self._path = f"/api/contexts/{context_id}"
        self._body = msgspec.json.encode(body)
        self._key = key
        self._reading: anyio.CancelScope | None = None

    @property
    def timeouts(self) -> Timeouts:
        """The time limits for interrupts."""
        return _TIMEOUTS

    async def send_execution(self, execution: Execution) -> None:
        """Send the request; return when the server has accepted the request.

        Raises:
            RemoteServerError: the server has refused the request, or cannot be reached.
        """
        try:
            await self._tasks.start(self._follow, execution)
        except get_cancelled_exc_class():
            # The server may have accepted the request already.
            if execution.options.interrupt_on_cancel:
                with anyio.move_on_after(_INTERRUPT_SECONDS, shield=True):
                    await self._interrupt()
            raise

    def forget_execution(self, execution: Execution) -> None:
        """Close the connection."""
        if self._reading is not None:
            self._reading.cancel()

    async def send_input(self, text: str, request: Message) -> None:
        """Raise LocalProtocolError: code that runs over HTTP cannot ask for input."""
        raise LocalProtocolError("code that runs over HTTP cannot ask for input")

    async def interrupt_kernel(self) -> None:
        """Interrupt this execution, at once or as soon as it begins."""
        body = msgspec.json.encode(InterruptRequest(idempotency_key=self._key))
        try:
            await self._requests.send("POST", f"{self._path}/interrupt", body)
        except RemoteServerError as error:
            if error.status != 404:  # otherwise the execution has ended and is forgotten
                raise

    async def restart_kernel(self) -> None:
        """Raise LocalProtocolError: the server restarts the kernel after a timeout."""
        raise LocalProtocolError("the server restarts the kernel itself")

    async def catch_up(self) -> bool:
        """Return False: every line of the response is read on arrival."""
        return False

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function while the connection to the server is open."""
        start_logged(self._tasks, function, *args)

    async def _interrupt(self) -> None:
        with suppress(RemoteServerError):
            await self.interrupt_kernel()

    async def _follow(self, execution: Execution, *, task_status: TaskStatus[None]) -> None:
        """Read the response, and repeat the request if the connection is lost."""
        receiver = _Receiver(execution)
        deadline, pause = math.inf, _FIRST_PAUSE_SECONDS
        try:
            with anyio.CancelScope() as self._reading:
                while True:
                    before, began_at = receiver.seen, anyio.current_time()
                    try:
                        await self._read(receiver, task_status)
                        return
                    except (_Interrupted, httpx.TransportError, RemoteServerError) as error:
                        if not _passes(error) or (
                            not receiver.begun and isinstance(error, httpx.ConnectError)
                        ):
                            raise
                        now = anyio.current_time()
                        worked = receiver.seen > before or now > began_at + RECONNECT_SECONDS
                        if worked or deadline == math.inf:
                            deadline, pause = now + RECONNECT_SECONDS, _FIRST_PAUSE_SECONDS
                        if now > deadline:
                            raise
                    await anyio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except Exception as error:
            failure = _translated(error, begun=receiver.begun)
            if not receiver.begun:
                raise failure from error
            execution.fail(failure)
        finally:
            if receiver.begun and execution.state != "done":
                execution.fail(ClientClosed("the connection to the server was closed"))

    async def _read(self, receiver: _Receiver, task_status: TaskStatus[None]) -> None:
        headers = {"Idempotency-Key": self._key}
        async with self._requests.stream(
            "POST", f"{self._path}/execute", self._body, headers=headers
        ) as response:
            if response.status_code != 200:
                raise refusal(response, await response.aread())
            if not receiver.begun:
                receiver.begin()
                task_status.started()
            lines, numbers = _Lines(), _Numbers()
            ended, failure = False, None
            # Trio reports the generators of httpx unless they end, even by cancellation.
            with anyio.CancelScope() as reading:
                async for chunk in response.aiter_bytes():
                    try:
                        for line in lines.split(chunk):
                            ended = ended or receiver.take(decode_line(line), numbers)
                    except MalformedMessage as error:
                        failure = error
                        reading.cancel()
        if failure is not None:
            raise failure
        if not ended:
            raise _Interrupted("the response has ended before the execution")


class _Receiver:
    """Hands the events of an execution to the Execution, as messages of a kernel.

    Args:
        execution: receives the messages.

    Attributes:
        begun: whether the server has accepted the request.
        seen: the number of events that were received.
    """

    def __init__(self, execution: Execution) -> None:
        self.begun = False
        self.seen = 0
        self._execution = execution
        self._conversation = Conversation("client")
        count = itertools.count()
        self._factory = MessageFactory(
            session="client", username="", new_id=lambda: str(next(count)), now=lambda: ""
        )
        self._request = self._factory.message("execute_request", execution.request)
        self._conversation.sent(self._request, "shell")

    def begin(self) -> None:
        """Take note that the server has accepted the request, and can interrupt the execution."""
        self.begun = True
        self._execution.msg_id = self._request.msg_id
        self._deliver("status", {"execution_state": "busy"})
        self._deliver("execute_input", {"code": self._execution.request.code})

    def take(self, event: dict[str, Any], numbers: _Numbers) -> bool:
        """Receive an event; return whether this is the last event.

        Raises:
            MalformedMessage: the last event cannot be read.
        """
        match event["type"]:
            case "end_of_execution":
                self._end(event)
                return True
            case "outputs_lost":
                numbers.next += int(event.get("count", 0))
                if numbers.next > self.seen:
                    self._execution.note_loss()
            case "keepalive" | "disconnected":
                return False
            case _:
                numbers.next += 1
                if numbers.next > self.seen and (output := output_of(event)) is not None:
                    with suppress(MalformedMessage):  # a RefusedOutput is in the result
                        self._deliver(*output)
        self.seen = max(self.seen, numbers.next)
        return False

    def _end(self, event: dict[str, Any]) -> None:
        if not event.get("outputs_complete", True):
            self._execution.note_loss()
        error = event.get("error")
        failure = event.get("failure")
        if failure is not None:
            exception = error_of(msgspec.convert(failure, Failure))
            if not isinstance(exception, ExecutionTimeout) or error is None:
                self._execution.fail(exception)
                return
            self._execution.time_is_up(exception)
        content: dict[str, Any] = {
            "status": "ok",
            "execution_count": event.get("execution_count"),
        }
        if event.get("status") == "aborted":
            content["status"] = "aborted"
        elif error is not None:
            content |= {"status": "error", **error_content(error)}
        self._deliver("execute_reply", content, "shell")
        self._deliver("status", {"execution_state": "idle"})

    def _deliver(
        self, msg_type: str, content: dict[str, Any], channel: ChannelName = "iopub"
    ) -> None:
        message = self._factory.message(msg_type, content, parent=self._request)
        self._execution.receive(self._conversation.received(message, channel))


class _Numbers:
    """The number of the next event of a response, which has all events again."""

    def __init__(self) -> None:
        self.next = 0


class _Lines:
    """Splits a stream of bytes into lines; only newlines end them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def split(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that end in a chunk."""
        buffer, searched = self._buffer, len(self._buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", searched)) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 1]
            searched = 0


def _passes(error: Exception) -> bool:
    """Return whether an error may pass, so that a request is worth another attempt."""
    return not isinstance(error, RemoteServerError) or error.status in _TEMPORARY


def _translated(error: Exception, *, begun: bool) -> KernelProtoError:
    if isinstance(error, KernelProtoError):
        return error
    if isinstance(error, httpx.TransportError | _Interrupted):
        outcome = ": the outcome of the execution is unknown" if begun else ""
        reason = str(error) or type(error).__name__
        return ServerUnreachable(f"the connection to the server is lost ({reason}){outcome}")
    return MalformedMessage(f"the response of the server cannot be read: {error}")
