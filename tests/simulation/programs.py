"""A program of the simulation: a pool, the tasks that use it, and the connections of pages."""

from __future__ import annotations

import itertools
import math
import random
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import anyio
from anyio.abc import TaskGroup

from kernelproto import (
    Kernel,
    KernelFinder,
    KernelPool,
    KernelProtoError,
    RestartPolicy,
    Timeouts,
)
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import PoolError, RegistryError
from kernelproto.fanout.broadcast import Broadcast
from kernelproto.fanout.broadcasts import Broadcasts
from kernelproto.fanout.subscriber import Subscriber
from kernelproto.supervise import Backoff
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message
from tests.simulation.machine import KERNEL_TYPE, NAME, USER, Provider
from tests.simulation.store import SimulatedRegistry

if TYPE_CHECKING:
    from tests.simulation.pages import Connection
    from tests.simulation.world import World

NAMES = ("one", "two")

# A task that waits longer than this waits for ever. Every fault and every execution is shorter.
LIMIT_SECONDS = 900.0

# How long a user waits for a kernel, or reads its messages.
_PATIENCE = (1.0, 5.0, 30.0, 200.0, 600.0)

# How long the users of a pool may take to end after it. They get errors at once; a page reads its
# last messages for at most 30 s, and a lost connection is noticed after at most 40 s.
_END_SECONDS = 90.0

# The replay log of each kernel: few bytes, so that it overflows now and then.
LOG_BYTES = 60_000
LOG_SECONDS = 30.0


@dataclass
class Outage:
    """The registry does not answer a program until a time.

    Attributes:
        until: the time.
        hangs: whether a question waits for this time; otherwise it fails at once.
        seconds: how long each question takes.
    """

    until: float = -math.inf
    hangs: bool = False
    seconds: float = 0.0


class Operation(NamedTuple):
    """An operation of a user that is under way."""

    name: str
    user: str
    scope: anyio.CancelScope


@dataclass
class Recorded:
    """The messages of a kernel in one program; a Watcher.

    Attributes:
        size: their size, in bytes.
        count: how many there are on iopub, up to the end of the kernel.
        last: the last one of these.
        ended: whether the kernel has ended.
        sessions: the sessions that have joined.
        before: the size up to each message, by msg_id.
    """

    size: int = 0
    count: int = 0
    last: Message | None = None
    ended: bool = False
    sessions: set[str] = field(default_factory=set[str])
    before: dict[str, int] = field(default_factory=dict[str, int])

    def offer(self, message: Message, channel: ChannelName) -> None:
        self.size += sum(map(len, message.parts)) + 1000
        self.before[message.msg_id] = self.size
        is_welcome = message.msg_type == "iopub_welcome"  # of the connection, not for its clients
        if channel == "iopub" and not is_welcome and not self.ended:
            self.count += 1
            self.last = message

    def fail(self, error: Exception) -> None:
        self.ended = True

    def resume(self) -> None:
        pass


class Program:
    """A program on a node, which is closed in order, or killed.

    A killed program does nothing any more to processes and to the registry. Its tasks are
    cancelled, and whatever they do to clean up has no effect.

    Attributes:
        killed: whether it was killed.
        keeps: whether its kernels outlive it.
        is_open: whether it serves.
        closing: set when it is to close.
        ended: set when it has ended.
        opened_at: the time since which it serves.
        idle_timeout: the seconds after which it culls an idle kernel; None means never.
        operations: the scopes of the operations of its users, which a fault may cancel.
    """

    def __init__(
        self, world: World, number: int, node: str, *, keeps: bool, most: int | None = None
    ) -> None:
        self.number = number
        self.node = node
        self.keeps = keeps
        self.killed = False
        self.is_open = False
        self.closing = anyio.Event()
        self.ended = anyio.Event()
        self.operations: dict[int, Operation] = {}
        self.outage = Outage()
        self.connections: dict[Connection, None] = {}
        self.tasks: TaskGroup
        self.pool: KernelPool
        self.most_kernels: float = math.inf
        self._world = world
        self._scope = anyio.CancelScope()
        self._chance = chance = random.Random(f"{world.seed}, program {number}")
        self._numbers = itertools.count()
        self._recorded: dict[Broadcast, Recorded] = {}
        self.broadcasts = Broadcasts(limit=LOG_BYTES, seconds=LOG_SECONDS)
        self.opened_at = -math.inf
        self.idle_timeout: float | None = chance.choice((None, 5.0, 20.0, 100.0))
        self.limit = most or chance.choice((1, 2, 3, 5))
        self.most_per_user = chance.choice((1, 2))
        self._options = {
            "max_kernels": self.limit,
            "max_per_user": self.most_per_user,
            "idle_timeout": self.idle_timeout,
            "max_age": chance.choice((None, None, 60.0)),
            "cull_connected": chance.random() < 0.2,
            "restart": chance.choice((None, _policy(chance))),
        }

    def __str__(self) -> str:
        return f"program {self.number} on node {self.node}"

    def violate(self, text: str) -> None:
        """Report a broken invariant."""
        self._world.violate(text)

    def kill(self) -> None:
        """End at once."""
        self._world.check_processes()
        self.killed = True
        self.is_open = False
        self._world.machine.program_was_killed(self)
        for connection in self.connections:
            connection.broken.set()
        self._scope.cancel()

    async def ask(self) -> None:
        """Wait for the registry; part of Link."""
        if self.outage.seconds:
            await anyio.sleep(self.outage.seconds)
        if self.outage.hangs:
            await anyio.sleep_until(self.outage.until)
        elif anyio.current_time() < self.outage.until:
            raise sqlite3.OperationalError("the registry does not answer")

    def check(self) -> None:
        """Refuse the questions of a killed program; part of Link."""
        if self.killed:
            raise sqlite3.OperationalError("the program was killed")

    def note_added(self, kernel_id: str, fence: int) -> None:
        """Note the fence of a new row; part of Link."""
        self._world.fences[kernel_id] = fence

    def note_claimed(self, kernel_id: str, fence: int) -> None:
        """Check that a claim has a higher fence than all earlier ones; part of Link."""
        before = self._world.fences[kernel_id]
        self._world.fences[kernel_id] = fence
        if fence <= before:
            self.violate(f"{self} claims {kernel_id} with fence {fence} after fence {before}")

    async def run(self) -> None:
        """Serve until the program is closed or killed."""
        try:
            with self._scope:
                async with background_tasks() as self.tasks:
                    await self._serve()
                    await self._let_users_end()
        except RegistryError:
            self._world.counts["could not open"] += 1
        except Exception as error:
            if not self.killed:
                self._world.violate(f"{self} has failed: {error!r}", error)
        finally:
            self.is_open = False
            self.ended.set()
            if not self.killed:
                self._check_end()

    async def _serve(self) -> None:
        finder = KernelFinder([Provider(self._world.machine, self)])
        options = {
            **self._options,
            "finder": finder,
            "kernel_type": KERNEL_TYPE,
            "timeouts": Timeouts(startup=20),
        }
        if not self.keeps:
            async with KernelPool(**options) as self.pool:
                await self._work()
            return
        registry = SimulatedRegistry(self._world.store, self)
        pool = KernelPool(**options, registry=registry, node=self.node)
        async with registry, pool as self.pool:
            await self._work()

    async def _work(self) -> None:
        restored = self.pool.counts["restored"]
        # More kernels may be restored than the limits allow.
        self.most_kernels = max(self.limit, restored)
        self.most_per_user = max(self.most_per_user, len(NAMES) if restored else 0)
        self._world.counts["restored"] += restored
        self.is_open = True
        self.opened_at = anyio.current_time()
        for user in self._world.users:
            self.tasks.start_soon(self._use, user)
        await self.closing.wait()
        self.is_open = False

    async def _let_users_end(self) -> None:
        """Wait for the users of the pool, whose calls raise when it is closed."""
        end = anyio.current_time() + _END_SECONDS
        while self.operations or self.connections:
            if anyio.current_time() > end:
                names = [operation.name for operation in self.operations.values()]
                pages = [str(connection.page) for connection in self.connections]
                self._world.violate(f"{self} is closed, and these still wait: {names + pages}")
                return
            await anyio.sleep(1)

    def _check_end(self) -> None:
        """Check that a program that has ended in order owns nothing."""
        for process in self._world.machine.owned_by(self):
            self._world.violate(f"{self} has ended, and still owns process {process.number}")

    async def _use(self, user: str) -> None:
        """Use the pool as a user of the library does, until the program is closed."""
        chance = random.Random(f"{self._world.seed}, program {self.number}, {user}")
        while self.is_open and not self._world.is_quiet:
            await anyio.sleep(chance.expovariate(self._world.rate))
            if not self.is_open:
                break
            (operation,) = chance.choices(_OPERATIONS, _WEIGHTS)
            await self.attempt(operation, user, chance)

    @property
    def leases_in_use(self) -> set[tuple[str, str]]:
        """The user and the name of each kernel that a user or a page may be using."""
        pages = {(each.user, each.name) for each in self.connections}
        return pages | {(each.user, name) for each in self.operations.values() for name in NAMES}

    async def attempt(
        self, operation: Callable[..., Awaitable[None]], user: str, chance: random.Random
    ) -> bool:
        """Perform an operation; return whether it was performed without an error."""
        number = next(self._numbers)
        name = operation.__name__.removeprefix("_")
        done = False
        scope = anyio.CancelScope()
        self._world.uses.note(user, *NAMES)
        self.operations[number] = Operation(f"{name} of {user}", user, scope)
        with anyio.move_on_after(LIMIT_SECONDS) as guard, scope:
            try:
                await operation(self, user, chance)
                done = True
            except KernelProtoError as error:
                name = f"{name}: {type(error).__name__}"
        del self.operations[number]
        self._world.uses.note(user, *NAMES)
        if guard.cancelled_caught:
            self._world.violate(f"{user} has waited {LIMIT_SECONDS:g} s for {name!r} in {self}")
        self._world.counts["cancelled" if scope.cancelled_caught else name] += 1
        return done

    async def serve_page(self, connection: Connection) -> None:
        """Serve the WebSocket of a page, as the server does."""
        self.connections[connection] = None
        try:
            await self._serve_page(connection)
        except KernelProtoError as error:
            connection.reason = error
        finally:
            del self.connections[connection]
            self._world.uses.note(connection.user, connection.name)
            connection.close()

    async def _serve_page(self, connection: Connection) -> None:
        async with self.pool.connection(
            connection.user, name=connection.name, channels=(), env=env_of(connection)
        ) as (kernel, _):
            broadcast = self.broadcasts.of(kernel)
            recorded = self._recorded_of(broadcast, kernel)
            recorded.sessions.add(connection.session)
            with broadcast.join(connection.session, connection.last_msg_id) as subscriber:
                connection.page.joined(self, broadcast, recorded)
                async with background_tasks() as tasks:
                    tasks.start_soon(_send, connection, subscriber)
                    tasks.start_soon(_end_with_kernel, connection, broadcast)
                    tasks.start_soon(_take, connection, subscriber)
                    await _until_cut_off(connection, subscriber)
                subscriber.leave()

    def _recorded_of(self, broadcast: Broadcast, kernel: Kernel) -> Recorded:
        if broadcast not in self._recorded:
            self._recorded[broadcast] = Recorded()
            kernel.watch(self._recorded[broadcast])
        return self._recorded[broadcast]


def env_of(lease: Connection | tuple[str, str]) -> dict[str, str]:
    """Return the environment variables that tell the machine whose kernel a process is."""
    user, name = lease if isinstance(lease, tuple) else (lease.user, lease.name)
    return {USER: user, NAME: name}


def code(chance: random.Random) -> str:
    """Return code that writes some lines."""
    lines, pause = chance.choice(
        ((0, 0.0), (1, 0.0), (3, 0.0), (8, 0.3), (4, 2.0), (20, 0.01), (2, 30.0))
    )
    return f"{lines} {pause} {chance.choice((10, 10, 100, 2000, 9000))}"


# What the server does for a page. ---------------------------------------------------------------


async def _send(connection: Connection, subscriber: Subscriber) -> None:
    try:
        notice = subscriber.gap_notice()
        if notice is not None:
            await connection.deliver(notice, "iopub", subscriber, subscriber.cursor.sent)
        while True:
            entry = await subscriber.next()
            number = subscriber.cursor.sent + 1
            await connection.deliver(entry.message, entry.channel, subscriber, number)
            subscriber.advance()
    except KernelProtoError as error:
        await connection.finish(error)
    except anyio.BrokenResourceError:
        pass


async def _take(connection: Connection, subscriber: Subscriber) -> None:
    async for message in connection.requests:
        await subscriber.forward(message, "shell")
        if subscriber.broadcast.failure is None:  # otherwise the connection may end before a reply
            connection.page.was_forwarded(message.msg_id)


async def _until_cut_off(connection: Connection, subscriber: Subscriber) -> None:
    """Wait until the server notices that the connection is lost, or ends it."""
    async with background_tasks() as tasks:
        tasks.start_soon(_notice, connection, tasks.cancel_scope)
        await subscriber.cut_off.wait()


async def _notice(connection: Connection, scope: anyio.CancelScope) -> None:
    await connection.broken.wait()
    await anyio.sleep(connection.notice_seconds)
    scope.cancel()


async def _end_with_kernel(connection: Connection, broadcast: Broadcast) -> None:
    await broadcast.ended.wait()
    await anyio.sleep(30)  # the page may be slow, but reads its last messages
    connection.broken.set()


# What users do. ---------------------------------------------------------------------------------


async def _get(program: Program, user: str, chance: random.Random) -> Kernel:
    name = chance.choice(NAMES)
    replaces = chance.choice((None, None, None, *NAMES))
    options = {"name": name, "env": env_of((user, name))}
    if replaces not in (None, name):
        options["replaces"] = replaces
    if chance.random() < 0.5:
        return await program.pool.get(user, **options)
    with anyio.move_on_after(chance.choice(_PATIENCE)):
        return await program.pool.get(user, wait=True, **options)
    raise PoolError("the user has given up")


async def _execute(program: Program, user: str, chance: random.Random) -> None:
    kernel = await _get(program, user, chance)
    source = code(chance)
    result = await kernel.execute(source)
    lines = [line.split(":") for line in result.stdout.splitlines()]
    numbers = [int(number) for _, number, _ in lines]
    if any(after != before + 1 for before, after in itertools.pairwise(numbers)):
        program.violate(f"an execution of {user} has the outputs {numbers}")
    if len({process for process, _, _ in lines}) > 1:
        program.violate(f"an execution of {user} has outputs of two processes")
    if result.status == "ok" and len(numbers) != int(source.split()[0]):
        program.violate(f"an execution of {user}, {source!r}, has the outputs {numbers}")


async def _release(program: Program, user: str, chance: random.Random) -> None:
    await program.pool.release(user, name=chance.choice(NAMES))


async def _restart(program: Program, user: str, chance: random.Random) -> None:
    await program.pool.restart(user, name=chance.choice(NAMES))


async def _interrupt(program: Program, user: str, chance: random.Random) -> None:
    await program.pool.interrupt(user, name=chance.choice(NAMES))


async def _read(program: Program, user: str, chance: random.Random) -> None:
    """Read the messages of a kernel to their end, or for a while."""
    kernel = await _get(program, user, chance)
    recorded = Recorded()
    last: str | None = None
    with anyio.move_on_after(chance.choice(_PATIENCE)):
        try:
            async with kernel.messages() as messages:
                kernel.watch(recorded)
                async for message, _ in messages:
                    last = last if message.msg_type == "iopub_welcome" else message.msg_id
        except KernelProtoError as error:
            if recorded.last is not None and recorded.last.msg_id != last:
                program.violate(f"{user} has not read {recorded.last!r}, the last message: {error}")
            raise
        finally:
            kernel.unwatch(recorded)


async def _listen(program: Program, user: str, chance: random.Random) -> None:
    """Read the events of a kernel to their end, or for a while."""
    kernel = await _get(program, user, chance)
    with anyio.move_on_after(chance.choice(_PATIENCE)):
        async for _ in kernel.events():
            pass


_OPERATIONS = (_execute, _release, _restart, _interrupt, _read, _listen)
_WEIGHTS = (10, 1, 1, 1, 1, 1)


def _policy(chance: random.Random) -> RestartPolicy:
    return RestartPolicy(
        limit=2, time_to_dead=chance.choice((None, 6.0, 15.0)), backoff=Backoff(initial=1.0)
    )
