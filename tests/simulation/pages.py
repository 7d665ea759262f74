"""Pages: clients of a program's kernels, whose connections are lost, and what they must receive."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import ClientClosed, KernelProtoError
from kernelproto.fanout.broadcast import Broadcast
from kernelproto.fanout.subscriber import Subscriber
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import ExecuteRequest
from kernelproto.wire.message import PROTOCOL_VERSION, Header, Message
from tests.simulation.programs import (
    LIMIT_SECONDS,
    LOG_BYTES,
    LOG_SECONDS,
    NAMES,
    Program,
    Recorded,
    code,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

_GAP = "[outputs are missing"
_NOTICE = "["

# The seconds between two requests of a page, the time of a visit, and the time between two.
_ASK_SECONDS = 15.0
_VISITS = (2.0, 10.0, 60.0)
# The share of the visits that begin with a reload of the page: it forgets everything.
_RELOADS = 0.05
_ABSENCES = (0.0, 0.0, 0.5, 5.0, LOG_SECONDS - 2, LOG_SECONDS + 20)

Delivered = tuple[Message, ChannelName, Subscriber, int]


@dataclass
class Asked:
    """A request of a page.

    Attributes:
        forwarded: whether a program has taken it.
        excused: whether the page cannot know its end: it has missed messages.
        replies: the number of its replies.
        idles: the number of its statuses "idle".
    """

    forwarded: bool = False
    excused: bool = False
    replies: int = 0
    idles: int = 0

    @property
    def is_open(self) -> bool:
        """Whether the page must still get its reply or its "idle"."""
        return self.forwarded and not self.excused and (self.replies, self.idles) != (1, 1)


class Connection:
    """A connection between a page and a program.

    Attributes:
        broken: set when it is lost, or ended by the program.
        notice_seconds: how long the program takes to notice that it is lost.
        reason: the error with which the program refused or ended it.
        messages: what the page reads.
        requests: what the program reads.
    """

    def __init__(self, page: Page, *, buffer: int, notice_seconds: float) -> None:
        self.page = page
        self.user, self.name = page.lease
        self.session = page.session
        self.last_msg_id = page.last_msg_id if page.exact else None
        self.broken = anyio.Event()
        self.notice_seconds = notice_seconds
        self.reason: KernelProtoError | None = None
        self._to_page, self.messages = anyio.create_memory_object_stream[
            Delivered | KernelProtoError
        ](buffer)
        self._to_program, self.requests = anyio.create_memory_object_stream[Message](math.inf)

    async def deliver(
        self, message: Message, channel: ChannelName, subscriber: Subscriber, number: int
    ) -> None:
        """Send a message to the page; its receipt acknowledges every message before a number."""
        await self._to_page.send((message, channel, subscriber, number))

    async def finish(self, error: KernelProtoError) -> None:
        """Tell the page that no more messages follow."""
        await self._to_page.send(error)

    def ask(self, request: Message) -> None:
        """Send a request to the program; it is lost if the connection is."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._to_program.send_nowait(request)

    def close(self) -> None:
        """Close the connection; only the program does it, when it has noticed its end."""
        self.broken.set()
        for stream in (self._to_page, self._to_program, self.messages, self.requests):
            stream.close()


class Page:
    """A client with one session, which comes back when its connection is lost.

    Args:
        world: the world.
        number: its number.

    Attributes:
        exact: whether it names its last message when it returns.
    """

    def __init__(self, world: World, number: int) -> None:
        self._chance = chance = random.Random(f"{world.seed}, page {number}")
        self._world = world
        self.session = f"page-{number}"
        self.lease = chance.choice(world.users), chance.choice(NAMES)
        self.exact = chance.random() < 0.6
        self.last_msg_id: str | None = None
        self.connection: Connection | None = None
        self._program: Program | None = None
        self._broadcast: Broadcast | None = None
        self._requests: dict[str, Asked] = {}
        self._seen: set[str] = set()
        self._position: tuple[int, int] | None = None
        self._has_gap = True
        self._may_miss = True
        self._is_resent = False
        self._left_at = -math.inf
        self._recorded = Recorded()
        self._sessions = 0
        self._count = 0
        self._acknowledged_size = 0

    def __str__(self) -> str:
        return f"{self.session} of {self.lease}"

    async def live(self) -> None:
        """Visit programs until the world is quiet, then wait for the end of all requests."""
        chance = self._chance
        while not self._world.is_quiet:
            program = self._world.choose_program(chance)
            if program is None:
                await anyio.sleep(1)
                continue
            if chance.random() < _RELOADS:
                self._reload()
            await self._visit(program, chance.choice(_VISITS), asks=True)
            await anyio.sleep(chance.choice(_ABSENCES))
        await self._finish()

    def drop(self) -> None:
        """Lose the connection."""
        if self.connection is not None:
            self.connection.broken.set()

    def was_forwarded(self, msg_id: str) -> None:
        """Note that a program has taken a request."""
        self._requests[msg_id].forwarded = True

    def joined(self, program: Program, broadcast: Broadcast, recorded: Recorded) -> None:
        """Note that a program sends the messages of a kernel from now on."""
        is_same = broadcast is self._broadcast
        self._may_miss = (
            self._may_miss  # it has not received the notice of the last time
            or not is_same
            or anyio.current_time() - self._left_at >= LOG_SECONDS
            or len(recorded.sessions) > self._sessions
            or recorded.size - self._acknowledged_size > LOG_BYTES / 2
        )
        if not is_same:
            self._excuse()
            self._acknowledged_size = recorded.size
        # A client that names a message of another log gets all messages of this one.
        self._is_resent = not (is_same and self.exact)
        self._program, self._broadcast, self._recorded = program, broadcast, recorded
        self._count = recorded.count

    async def _visit(self, program: Program, seconds: float, *, asks: bool) -> None:
        chance = self._chance
        self.connection = connection = Connection(
            self,
            buffer=chance.choice((0, 1, 16)),
            notice_seconds=chance.choice((0.0, 0.0, 3.0, 40.0)),
        )
        program.tasks.start_soon(program.serve_page, connection)
        async with background_tasks() as tasks:
            tasks.start_soon(_cancel_when_broken, connection, tasks.cancel_scope)
            if asks:
                tasks.start_soon(self._ask, connection)
            with anyio.move_on_after(seconds), suppress(anyio.ClosedResourceError):
                await self._read(connection, chance.choice((0.0, 0.0, 0.0, 0.1, 1.0)))
        self._left_at = anyio.current_time()
        self._sessions = len(self._recorded.sessions)
        connection.broken.set()

    async def _ask(self, connection: Connection) -> None:
        while not self._world.is_quiet:
            await anyio.sleep(self._chance.expovariate(1 / _ASK_SECONDS))
            header = Header(
                msg_id=f"{self.session}-{len(self._requests)}",
                msg_type="execute_request",
                session=self.session,
                version=PROTOCOL_VERSION,
            )
            self._requests[header.msg_id] = Asked()
            connection.ask(Message.build(header, ExecuteRequest(code=code(self._chance))))

    async def _read(self, connection: Connection, pause: float) -> None:
        async for delivered in connection.messages:
            if isinstance(delivered, KernelProtoError):
                self._check_end(delivered)
                return
            await anyio.sleep(pause)
            message, channel, subscriber, number = delivered
            self._receive(message, channel)
            self._acknowledged_size = self._recorded.before.get(
                message.msg_id, self._acknowledged_size
            )
            subscriber.acknowledge(number)

    def _receive(self, message: Message, channel: ChannelName) -> None:
        if message.msg_id in self._seen:
            if not self._is_resent:
                self._world.violate(f"{self} has received {message!r} twice")
            return
        is_gap = message.msg_type == "stream" and message.content.text.startswith(_GAP)
        self._is_resent &= is_gap  # this notice comes before the messages of the log
        self._seen.add(message.msg_id)
        self.last_msg_id = message.msg_id
        if message.msg_type == "stream":
            self._receive_output(message.content.text)
        self._may_miss = False
        parent = message.parent_header
        asked = None if parent is None else self._requests.get(parent.msg_id)
        if asked is not None:
            if channel == "shell":
                asked.replies += 1
            elif message.msg_type == "status" and message.content.execution_state == "idle":
                asked.idles += 1
            if asked.replies > 1 or asked.idles > 1:
                self._world.violate(f"request {parent and parent.msg_id} has ended twice")

    def _receive_output(self, text: str) -> None:
        if text.startswith(_GAP):
            if not self._may_miss:
                self._world.violate(f"{self} has returned in time, and is told: {text}")
            self._world.counts["gaps"] += 1
            self._excuse()
            return
        if text.startswith(_NOTICE):
            return
        process, number = map(int, text.split(":")[:2])
        self._check_order(process, number)
        self._position, self._has_gap = (process, number), False
        self._world.counts["outputs"] += 1

    def _check_order(self, process: int, number: int) -> None:
        if self._position is None:
            return
        before, last = self._position
        if process == before:
            follows = number > last if self._has_gap else number == last + 1
        else:
            written = self._world.machine.processes[before].outputs
            follows = self._has_gap or (last == written - 1 and number == 0)
        if not follows:
            self._world.violate(
                f"{self} has received line {number} of process {process} after line {last} of "
                f"process {before}"
            )

    def _check_end(self, error: KernelProtoError) -> None:
        """Check that everything has arrived: the kernel has ended, or its program leaves it."""
        last = self._recorded.last
        is_new = self._recorded.count > self._count
        if is_new and last is not None and last.msg_id not in self._seen:
            self._world.violate(f"{self} has not received {last!r}, the last message: {error!r}")
        goes_on = isinstance(error, ClientClosed) and error.goes_on
        open_requests = [key for key, asked in self._requests.items() if asked.is_open]
        if open_requests and not goes_on:
            self._world.violate(f"{self} has no end of {open_requests}, but {error!r}")
        if self._position is None or self._has_gap:
            return
        number, last = self._position
        process = self._world.machine.processes[number]
        has_ended = not process.alive and process.launcher is self._program
        if has_ended and last != process.outputs - 1:
            self._world.violate(
                f"{self} has received {last + 1} of {process.outputs} lines of process {number}, "
                f"but {error!r}"
            )

    def _reload(self) -> None:
        self.session = f"{self.session}+"
        self.last_msg_id = None
        self._broadcast = None
        self._position = None
        self._seen.clear()
        self._excuse()
        for asked in self._requests.values():
            asked.replies = asked.idles = 0

    def _excuse(self) -> None:
        self._has_gap = True
        for asked in self._requests.values():
            asked.excused = True

    async def _finish(self) -> None:
        """Visit the last program until all requests have ended."""
        program, broadcast = self._program, self._broadcast
        if program is None or broadcast is None:
            return
        with anyio.move_on_after(LIMIT_SECONDS) as guard:
            while (
                program.is_open
                and broadcast is self._broadcast
                and broadcast.failure is None
                and any(asked.is_open for asked in self._requests.values())
            ):
                await self._visit(program, 10, asks=False)
                await anyio.sleep(1)
        if guard.cancelled_caught:
            still = [key for key, asked in self._requests.items() if asked.is_open]
            self._world.violate(f"{self} has waited {LIMIT_SECONDS:g} s for the end of {still}")


async def _cancel_when_broken(connection: Connection, scope: anyio.CancelScope) -> None:
    await connection.broken.wait()
    scope.cancel()
