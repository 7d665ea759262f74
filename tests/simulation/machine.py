"""The machine of the simulation: FakeKernels as processes that outlive programs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import ClientClosed, DiscoveryError, KernelInUse, LaunchError
from kernelproto.interfaces import Channels, Deliver, KernelAttributes, KernelHandle
from kernelproto.testing import Exchange, FakeKernel
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame

HOST = "simulated"
KERNEL_TYPE = f"{HOST}/kernel"

# Environment variables that tell the machine whose kernel a process is.
USER, NAME = "SIMULATED_USER", "SIMULATED_NAME"

_SIGINT, _SIGKILL, _SIGTERM = 2, 9, 15


class Owner(Protocol):
    """A program, as the machine knows it."""

    killed: bool
    keeps: bool
    most_kernels: int
    most_per_user: int
    idle_timeout: float | None

    def violate(self, text: str) -> None:
        """Report a broken invariant."""
        ...


class LaunchFault(NamedTuple):
    """The fault of one launch: "slow", "refused", "dies" or "silent"."""

    kind: str
    seconds: float


class Process:
    """A kernel's process.

    Attributes:
        number: its number.
        fake: the kernel.
        outputs: the number of lines that it has written.
        registered: whether the registry has had its handle.
        detached: whether it outlives its program.
        listed_as: the id of its kernel in the registry; "" if it does not outlive its program.
        held: messages that it has not read, because it is stopped.
        executing_since: since when it has executed code; None if it does not.
        active_at: the last time at which it has executed code, or was started, or ran again.
        written_at: the time of its last line.
        owned_since: since when its owner has had it.
    """

    def __init__(
        self, number: int, fake: FakeKernel, owner: Owner, *, detached: bool, listed_as: str
    ) -> None:
        self.number = number
        self.fake = fake
        self.outputs = 0
        self.registered = False
        self.detached = detached
        self.listed_as = listed_as
        self.held: deque[tuple[Channels, ChannelName, Sequence[Frame]]] = deque()
        self.executing_since: float | None = None
        self.active_at = self.owned_since = anyio.current_time()
        self.written_at = -math.inf
        self._owner: Owner | None = owner
        self._stopped_until = -math.inf
        self._stopped = Bell()
        fake.on_execute(lambda code: True, self._execute)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.fake.returncode is None

    @property
    def owner(self) -> Owner | None:
        """The running program that owns the kernel; None if no program does."""
        return None if self._owner is None or self._owner.killed else self._owner

    @owner.setter
    def owner(self, owner: Owner | None) -> None:
        self._owner = owner
        self.owned_since = anyio.current_time()

    @property
    def launcher(self) -> Owner | None:
        """The program that owned the kernel last, which may have been killed."""
        return self._owner

    @property
    def lease(self) -> tuple[str, str] | None:
        """The user and the name of the kernel; None if its program has left them out."""
        env = self.fake.env
        return (env[USER], env[NAME]) if USER in env else None

    @property
    def is_stopped(self) -> bool:
        """Whether the process does not run for a while, as after SIGSTOP."""
        return anyio.current_time() < self._stopped_until

    def handle(self) -> KernelHandle:
        """Return its handle."""
        return KernelHandle(
            host=HOST,
            kernel_type=KERNEL_TYPE,
            kernel_id=self.fake.kernel_id,
            place={"process": self.number},
        )

    def stop(self, until: float) -> None:
        """Do not run until a time."""
        self._stopped_until = max(self._stopped_until, until)
        self.active_at = max(self.active_at, self._stopped_until)
        self._stopped.ring()

    def resume(self) -> None:
        """Run again."""
        if self.is_stopped:
            self.active_at = anyio.current_time()
        self._stopped_until = -math.inf
        self._stopped.ring()

    async def live(self, *, task_status: TaskStatus[None]) -> None:
        """Run until the process ends; a stopped process reads its messages afterwards."""
        async with self.fake, background_tasks() as tasks:
            tasks.start_soon(self._read_late)
            task_status.started()
            await self.fake.wait()

    async def _read_late(self) -> None:
        while True:
            while self.is_stopped:
                await self._pause()
            while self.held and not self.is_stopped:
                channels, channel, frames = self.held.popleft()
                with suppress(ClientClosed):
                    await channels.send(channel, frames)
            if not self.is_stopped:
                await self._stopped.wait()

    async def _execute(self, exchange: Exchange) -> None:
        """Run code: the number of lines, the seconds before each one, and the size of each one."""
        lines, pause, size = exchange.code.split()
        self.executing_since = anyio.current_time()
        try:
            for _ in range(int(lines)):
                await anyio.sleep(float(pause))
                while self.is_stopped:
                    await self._pause()
                exchange.stream(f"{self.number}:{self.outputs}:{'x' * int(size)}\n")
                self.outputs += 1
                self.written_at = anyio.current_time()
        finally:
            self.executing_since = None
            self.active_at = max(self.active_at, anyio.current_time())

    async def _pause(self) -> None:
        with anyio.CancelScope(deadline=self._stopped_until):
            await self._stopped.wait()


class Machine:
    """All processes, and the rules that the system itself enforces.

    Attributes:
        processes: every process that was ever started.
        faults: the faults of the next launches.
        orphans: the kernels whose program was killed before it had stored their handle.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self.processes: list[Process] = []
        self.faults: deque[LaunchFault] = deque()
        self.orphans = 0
        self._tasks = tasks
        self._launching: dict[str, Owner] = {}

    def alive(self) -> Iterator[Process]:
        """Iterate over the processes that run."""
        return (process for process in self.processes if process.alive)

    def owned_by(self, program: Owner) -> list[Process]:
        """Return the processes that run and belong to a program."""
        return [process for process in self.alive() if process.owner is program]

    def program_was_killed(self, program: Owner) -> None:
        """End the kernels that do not outlive a program, as the watchdog does."""
        for process in self.alive():
            if process.launcher is not program:
                continue
            if not process.detached:
                process.fake.die()
            elif not process.registered:
                self.orphans += 1

    async def launch(
        self, program: Owner, params: Mapping[str, object]
    ) -> tuple[ConnectionInfo, Manager]:
        """Start a process."""
        listed_as = str(params.get("listed_as") or "")
        self._launching[listed_as] = program
        try:
            return await self._launch(program, params, listed_as)
        finally:
            if self._launching.get(listed_as) is program:
                del self._launching[listed_as]

    async def _launch(
        self, program: Owner, params: Mapping[str, object], listed_as: str
    ) -> tuple[ConnectionInfo, Manager]:
        fault = self.faults.popleft() if self.faults else LaunchFault("", 0.0)
        await checkpoint()
        if fault.kind == "slow":
            await anyio.sleep(fault.seconds)
        if fault.kind == "refused" or program.killed:
            raise LaunchError("the simulation refuses this launch")
        env: dict[str, str] = params.get("env") or {}  # type: ignore[assignment]
        fake, detached = FakeKernel(env=env), bool(params.get("detached"))
        process = Process(
            len(self.processes), fake, program, detached=detached, listed_as=listed_as
        )
        self.processes.append(process)
        try:
            await self._tasks.start(process.live)
        except BaseException:
            process.fake.die()
            raise
        if program.killed:
            self.program_was_killed(program)
        self._check_limits(program, process)
        if fault.kind == "dies":
            process.fake.die(1)
        elif fault.kind == "silent":
            process.stop(math.inf)
        return process.fake.connection_info, Manager(process, program)

    async def find_launched(self, kernel_id: str) -> KernelHandle | None:
        """Return the handle of the process that runs under an id; in place of LocalHost's."""
        await checkpoint()
        program = self._launching.get(kernel_id)
        if program is not None and not program.killed:
            raise KernelInUse(f"the kernel {kernel_id} is being launched by {program}", pid=1)
        found = [process for process in self.alive() if process.listed_as == kernel_id]
        return found[-1].handle() if found else None

    def adopt(self, program: Owner, handle: KernelHandle) -> tuple[ConnectionInfo, Manager]:
        """Let a program take over a process."""
        process = self.processes[handle.place["process"]]  # type: ignore[index]
        if program.killed or not process.alive:
            raise DiscoveryError(f"the process {process.number} has ended")
        if process.owner is not None:
            raise KernelInUse(f"the process {process.number} belongs to {process.owner}", pid=1)
        process.owner = program
        return process.fake.connection_info, Manager(process, program)

    def _check_limits(self, program: Owner, process: Process) -> None:
        owned = self.owned_by(program)
        if len(owned) > program.most_kernels:
            program.violate(f"{program} has {len(owned)} processes")
        if process.lease is None:
            return
        leases = [other.lease for other in owned if other.lease is not None]
        if leases.count(process.lease) > 1:
            program.violate(f"{program} has started a second kernel for {process.lease}")
        user, _ = process.lease
        if sum(lease[0] == user for lease in leases) > program.most_per_user:
            program.violate(f"{program} has started too many kernels for {user}")


class Manager:
    """One program's handle on a process."""

    def __init__(self, process: Process, program: Owner) -> None:
        self.kernel_id = process.fake.kernel_id
        self._process = process
        self._program = program
        self._is_detached = False

    async def is_alive(self) -> bool:
        await checkpoint()
        return self._process.alive

    async def wait(self) -> int | None:
        return await self._process.fake.wait()

    async def signal(self, signum: int) -> None:
        await checkpoint()
        self._signal(signum)

    async def interrupt(self) -> None:
        await self.signal(_SIGINT)

    async def terminate(self) -> None:
        await self.signal(_SIGTERM)

    async def kill(self) -> None:
        await self.signal(_SIGKILL)

    async def cleanup(self) -> None:
        if not self._is_detached:
            with anyio.CancelScope(shield=True):
                await self.kill()

    async def detach(self) -> None:
        if not self._is_detached and self._may_act("detaches from"):
            self._is_detached = True
            self._process.owner = None

    def handle(self) -> KernelHandle | None:
        return self._process.handle() if self._process.detached else None

    @asynccontextmanager
    async def open_channels(
        self,
        info: ConnectionInfo,
        deliver: Deliver,
        *,
        identity: bytes,
        topics: Sequence[bytes] = (b"",),
    ) -> AsyncGenerator[Channels]:
        async with self._process.fake.open_channels(
            info, deliver, identity=identity, topics=topics
        ) as channels:
            yield _Channels(self, channels)

    async def send(self, channels: Channels, channel: ChannelName, frames: Sequence[Frame]) -> None:
        """Send a message to the process, which reads it when it is not stopped."""
        await checkpoint()
        if not self._may_act(f"sends a message on {channel} to"):
            return
        if self._process.is_stopped or self._process.held:
            self._process.held.append((channels, channel, frames))
        else:
            await channels.send(channel, frames)

    def _signal(self, signum: int) -> None:
        if not signum or not self._may_act(f"sends signal {signum} to"):
            return
        if signum == _SIGKILL or (signum != _SIGINT and not self._process.is_stopped):
            self._process.fake.die(-signum)
        elif signum == _SIGINT and not self._process.is_stopped:
            self._process.fake.interrupt()

    def _may_act(self, action: str) -> bool:
        """Return whether an action reaches the process; only its owner may act."""
        if self._program.killed or not self._process.alive:
            return False
        if self._process.owner is not self._program:
            self._program.violate(
                f"{self._program} {action} process {self._process.number}, which belongs to "
                f"{self._process.owner}"
            )
            return False
        return True


class _Channels:
    """The channels of one program to a process."""

    def __init__(self, manager: Manager, channels: Channels) -> None:
        self._manager = manager
        self._channels = channels

    async def send(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        await self._manager.send(self._channels, channel, frames)

    def abandon(self) -> None:
        self._channels.abandon()


class Provider:
    """The kernel provider of one program."""

    id = HOST

    def __init__(self, machine: Machine, program: Owner) -> None:
        self._machine = machine
        self._program = program

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        yield "kernel", KernelAttributes(display_name="Simulated", language="fake")

    async def launch(
        self,
        name: str,
        /,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, Manager]:
        return await self._machine.launch(self._program, launch_params or {})

    async def adopt(self, handle: KernelHandle, /) -> tuple[ConnectionInfo, Manager]:
        await checkpoint()
        return self._machine.adopt(self._program, handle)
