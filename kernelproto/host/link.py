"""Link: the connection to a host, which connects again after a loss.

Theory of operation
-------------------
A link has no task of its own. Each method that waits for the host drives the link meanwhile, unless
another task is the driver already; so the open channels of a kernel drive the link most of the
time. The driver connects, reads, writes and acknowledges. If the driver is cancelled, another
waiting task becomes the driver. If the cancellation has cut a frame off, the connection is closed,
and the next connection resumes.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio import get_cancelled_exc_class
from anyio.abc import ByteStream

from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import (
    DiscoveryError,
    KernelInUse,
    KernelProtoError,
    RemoteProtocolError,
)
from kernelproto.host.protocol import Answer, HostProtocol, KernelExit
from kernelproto.interfaces import DeathCause

logger = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[ByteStream]]

_RECEIVE_BYTES = 256 * 1024

# Received messages are acknowledged after this time, so that a flood has few acknowledgements.
_ACKNOWLEDGE_SECONDS = 0.05

# The pauses between two attempts to connect.
_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 5.0

# The exceptions of a connection that was lost.
LOST = (OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError)


class HostGone(KernelProtoError):
    """The host has certainly ended, with its kernels; raised by a Connect function.

    Attributes:
        cause: the kind of the reason.
    """

    def __init__(self, message: str, *, cause: DeathCause = "other") -> None:
        super().__init__(message)
        self.cause: DeathCause = cause


class Link:
    """The attachment to one kernel of a host.

    Args:
        connect: connects to the host. Raises HostGone if the host has certainly ended, and OSError,
            BrokenResourceError or EndOfStream if the host cannot be reached now.
        kernel_id: the id of the kernel.
        claim: the secret of the owner.
        first: the first request, "start" or "attach".
        replays: as for HostProtocol.

    Attributes:
        kernel_id: the id of the kernel.
        protocol: the state of the attachment.
        reachable: whether the host is connected.
        failure: the error of every later call; None while the link works.
        on_change: called when *reachable* has changed, and when the link has failed.
        room: rings when the host may take more messages.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        kernel_id: str,
        claim: str,
        first: Mapping[str, Any],
        replays: bool = False,
    ) -> None:
        self.protocol = HostProtocol(
            first,
            kernel_id=kernel_id,
            claim=claim,
            attachment=uuid.uuid4().hex,
            replays=replays,
        )
        self.reachable = False
        self.failure: KernelProtoError | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.kernel_id = kernel_id
        self._connect = connect
        self._stream: ByteStream | None = None
        self._driven = False
        self._closed = False
        self._changed = Bell()  # something has arrived, or the link has changed
        self._outgoing = Bell()  # there is something to send
        self._arrived = Bell()  # there is something to acknowledge
        self._answers: dict[int, Waiter[Answer]] = {0: Waiter()}
        self._sending = False
        self._awaits_sent = 0
        self._lost_reported = 0
        self.room = Bell()

    @property
    def exit(self) -> KernelExit | None:
        """How the kernel has ended; None while running, as far as this program knows."""
        return self.protocol.exit

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes from the host."""
        return self.failure is not None or self._closed

    async def drive(self, until: Callable[[], bool]) -> None:
        """Serve the link until a condition holds; return at once if nothing more can come.

        Args:
            until: checked whenever something has arrived or ``wake`` was called.
        """
        while not until() and not self.is_over:
            if self._driven:
                await self._changed.wait()
                continue
            self._driven = True
            try:
                async with background_tasks() as tasks:
                    tasks.start_soon(self._serve)
                    while not until() and not self.is_over:
                        await self._changed.wait()
            finally:
                self._driven = False
                self._changed.ring()

    def wake(self) -> None:
        """Have every driver check the awaited condition."""
        self._changed.ring()

    async def first_answer(self) -> Mapping[str, Any]:
        """Wait until the host has carried out the first request; return the result.

        Raises:
            RequestRefused: the host has refused it.
            HostGone: the host has ended.
        """
        return await self._answer(0)

    async def request(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """Send a request about the kernel and wait for the answer.

        Raises:
            RequestRefused: the host has refused it.
            KernelProtoError: the link has failed, or the kernel has ended and was removed.
        """
        number = self.post(operation, **arguments)
        self._answers[number] = Waiter()
        try:
            return await self._answer(number)
        finally:
            self._answers.pop(number, None)
            self.protocol.withdraw(number)

    def post(self, operation: str, **arguments: Any) -> int:
        """Send a request about the kernel without waiting; return the number of the request."""
        number = self.protocol.request(operation, arguments)
        self.flush()
        return number

    def confirm(self, number: int) -> None:
        """Have all messages up to a number acknowledged, after a while; see HostProtocol."""
        self.protocol.confirm(number)
        if self.protocol.to_acknowledge:
            self._arrived.ring()

    def flush(self) -> None:
        """Send the pending bytes of the protocol, now if the socket takes them."""
        self._outgoing.ring()

    async def sent(self) -> None:
        """Wait until everything was sent; return at once while the host cannot be reached."""
        self._awaits_sent += 1
        try:
            await self.drive(lambda: not self.reachable or self._is_idle)
        finally:
            self._awaits_sent -= 1

    @property
    def _is_idle(self) -> bool:
        return not self.protocol.has_output and not self._sending

    async def aclose(self) -> None:
        """Close the connection; the kernel goes on."""
        self._closed = True
        self._changed.ring()
        stream, self._stream = self._stream, None
        self._set_reachable(False)
        if stream is not None:
            with suppress(*LOST):
                await anyio.aclose_forcefully(stream)

    async def reconnect(self) -> None:
        """Close the connection, so that the driver opens another one and resumes."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await anyio.aclose_forcefully(stream)

    async def _answer(self, number: int) -> Mapping[str, Any]:
        waiter = self._answers[number]
        await self.drive(lambda: waiter.is_set)
        if not waiter.is_set:
            raise self.failure or HostGone("the connection to the host of the kernel is closed")
        answer = await waiter.wait()
        if answer.ok is None:
            raise RequestRefused(answer.error)
        return answer.ok

    async def _serve(self) -> None:
        """Connect, and connect again whenever the connection is lost."""
        pause = _FIRST_RETRY_SECONDS
        while not self.is_over:
            try:
                if self._stream is None:
                    self._stream = await self._connect()
                    self.protocol.connected()
                async with self._connection(self._stream) as stream:
                    while not self.is_over:
                        data = await stream.receive(_RECEIVE_BYTES)
                        self._take(self.protocol.receive(data))
                        if self.reachable:
                            pause = _FIRST_RETRY_SECONDS
            except HostGone as error:
                self._fail(error)
            except RemoteProtocolError as error:
                self._fail(error)
            except LOST as error:
                logger.debug("the host of kernel %s is not connected: %s", self.kernel_id, error)
            else:
                return
            self._set_reachable(False)
            if not self.is_over:
                await anyio.sleep(pause)
                pause = min(2 * pause, _LAST_RETRY_SECONDS)

    @asynccontextmanager
    async def _connection(self, stream: ByteStream) -> AsyncGenerator[ByteStream]:
        """Write and acknowledge during the block; close a stream that cannot be used again."""
        is_lost = True
        try:
            async with background_tasks() as tasks:
                tasks.start_soon(self._write, stream)
                tasks.start_soon(self._acknowledge)
                yield stream
            is_lost = False
        except get_cancelled_exc_class():
            is_lost = self._sending  # a part of a frame may have been sent
            raise
        finally:
            if is_lost:
                self.protocol.disconnected()
                if self._stream is stream:
                    self._stream = None
                with suppress(*LOST):
                    await anyio.aclose_forcefully(stream)

    async def _write(self, stream: ByteStream) -> None:
        self._sending = False
        while True:
            data = self.protocol.output()
            if data:
                self._sending = True
                await stream.send(data)
                self._sending = False
            else:
                if self._awaits_sent:
                    self._changed.ring()
                await self._outgoing.wait()

    async def _acknowledge(self) -> None:
        while True:
            if not self.protocol.to_acknowledge:
                await self._arrived.wait()
            await anyio.sleep(_ACKNOWLEDGE_SECONDS)
            self.protocol.acknowledge()
            self._outgoing.ring()

    def _take(self, answers: list[Answer]) -> None:
        for answer in answers:
            if answer.number == 0:
                self._take_first(answer)
            elif answer.number in self._answers:
                self._answers[answer.number].set(answer)
        if self.protocol.closed is not None and not self.is_over:
            self._fail_closed(self.protocol.closed)
        if self.protocol.lost > self._lost_reported:
            logger.warning(
                "%d messages of kernel %s are lost: its log in the host was full",
                self.protocol.lost - self._lost_reported,
                self.kernel_id,
            )
            self._lost_reported = self.protocol.lost
        if self.protocol.has_output:
            self._outgoing.ring()
        if self.protocol.to_acknowledge:
            self._arrived.ring()
        self.room.ring()
        if answers or self.protocol.exit is not None:
            self._changed.ring()

    def _take_first(self, answer: Answer) -> None:
        """Take the answer with which a connection is attached, or is not."""
        if answer.ok is not None:
            self._set_reachable(True)
            self._answers[0].set(answer)
        elif not self._answers[0].is_set:
            self._answers[0].set(answer)  # first_answer() raises this
            self._fail(RequestRefused(answer.error))
        else:
            self._fail_closed(answer.error)

    def _fail_closed(self, error: Mapping[str, Any]) -> None:
        if error.get("kind") in ("in_use", "replaced"):
            owner = error.get("owner")
            self._fail(
                KernelInUse(
                    f"another program has taken over the kernel {self.kernel_id}",
                    pid=owner if isinstance(owner, int) else 0,
                )
            )
        elif error.get("kind") == "no_such_kernel":
            self._fail(HostGone(f"the host has no kernel {self.kernel_id} any more"))
        else:
            self._fail(RequestRefused(error))

    def _fail(self, error: KernelProtoError) -> None:
        if self.failure is None:
            self.failure = error
            self.on_change()
            self._changed.ring()

    def _set_reachable(self, reachable: bool) -> None:
        if reachable != self.reachable:
            self.reachable = reachable
            self.on_change()
            self._changed.ring()


class RequestRefused(DiscoveryError):
    """A host refuses a request.

    Args:
        error: the refusal, with "kind" and "reason".
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"the host of the kernel refuses: {error.get('reason', 'no reason')}")
        self.error = error

    @property
    def kind(self) -> object:
        """The kind of the refusal, see programs/host/requests.py."""
        return self.error.get("kind")
