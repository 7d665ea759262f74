"""check_kernel_manager: checks a KernelManager against the contract in ``interfaces``."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from kernelproto.exceptions import UnsupportedRequest
from kernelproto.interfaces import DescribesFailure, KernelManager
from kernelproto.launch.address.paths import runtime_folder
from kernelproto.launch.own_files import read_regular_file
from kernelproto.testing.contract import checking, require, require_type
from kernelproto.testing.leftovers import belongings, gone
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo

Launch: TypeAlias = Callable[[], Awaitable[tuple[ConnectionInfo, KernelManager]]]

_NO_SIGNAL, _SIGKILL = 0, 9

# Long enough for a call that should wait to return by mistake, and for tasks to begin their wait.
_A_MOMENT = 0.02


async def check_kernel_manager(launch: Launch, *, patience: float = 10.0) -> None:
    """Check a manager against the contract of ``interfaces.KernelManager``.

    Launches about twenty kernels and ends them. They need not answer messages: any process works
    that runs until a signal and ends on SIGTERM. During the check, nothing else in this program may
    start processes or open files.

    Args:
        launch: starts a kernel and returns the same pair as KernelProvider.launch().
        patience: seconds after which a call counts as hanging.

    Raises:
        AssertionError: the manager violates a requirement, which the text names.
    """
    kernels = _Kernels(launch, patience)
    for check in _CHECKS:
        await check(kernels)


@dataclass(frozen=True)
class _Kernels:
    """Launches the kernels for the checks."""

    launch: Launch
    patience: float

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[tuple[ConnectionInfo, KernelManager]]:
        """Launch a kernel for the block."""
        with self.checking("launch() starts a kernel"):
            info, manager = await self.launch()
        try:
            yield info, manager
        finally:
            # Other checks verify these two.
            with anyio.move_on_after(self.patience, shield=True):
                for end in (manager.kill, manager.cleanup):
                    with suppress(Exception):
                        await end()

    @asynccontextmanager
    async def manager(self) -> AsyncGenerator[KernelManager]:
        """Launch a kernel for the block; yield only the manager."""
        async with self.running() as (_, manager):
            yield manager

    def checking(self, requirement: str) -> AbstractContextManager[None]:
        return checking(requirement, self.patience)

    async def end_of(self, manager: KernelManager, requirement: str) -> int | None:
        """Require that the process ends, and that ``is_alive`` agrees; return the exit status."""
        with self.checking(requirement):
            status = await manager.wait()
        require_type(status, int | NoneType, "wait() returns an exit status, or None")
        await self.require_dead(manager, "is_alive() is False once wait() has returned")
        return status

    async def require_dead(self, manager: KernelManager, requirement: str) -> None:
        with self.checking(requirement):
            alive = await manager.is_alive()
            require(alive is False, requirement, alive)


async def _is_a_manager(kernels: _Kernels) -> None:
    async with kernels.manager() as one, kernels.manager() as other:
        require_type(one, KernelManager, "it has all that a KernelManager has")
        require_type(one.kernel_id, str, "kernel_id is a str")
        different = "every kernel has a kernel_id of its own"
        require("" != one.kernel_id != other.kernel_id, different, one.kernel_id)


async def _lives_until_it_is_ended(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.checking("is_alive() is True while the process runs"):
            alive = await manager.is_alive()
            require(alive is True, "is_alive() is True while the process runs", alive)
        with kernels.checking("signal(0) changes nothing"):
            await manager.signal(_NO_SIGNAL)
            require(await manager.is_alive(), "signal(0) changes nothing", "the end")
        await _still_waits(kernels, manager)


async def _kill_ends_it(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.checking("kill() raises nothing"):
            await manager.kill()
        _require_killed(await kernels.end_of(manager, "kill() ends the process"))


async def _signal_reaches_it(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.checking("signal() raises nothing"):
            await manager.signal(_SIGKILL)
        _require_killed(await kernels.end_of(manager, "signal() sends the signal"))


async def _terminate_ends_it(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.checking("terminate() raises nothing"):
            await manager.terminate()
        await kernels.end_of(manager, "terminate() asks the process to end")


async def _interrupt_is_done_or_refused(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.checking("interrupt() raises nothing but UnsupportedRequest"):
            await _interrupt(manager)


async def _several_tasks_wait(kernels: _Kernels) -> None:
    requirement = "wait() returns the same exit status to several tasks"
    statuses: list[int | None] = []
    async with kernels.manager() as manager:

        async def wait() -> None:
            statuses.append(await manager.wait())

        with kernels.checking(requirement):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(wait)
                await anyio.sleep(_A_MOMENT)
                await manager.kill()
        again = await kernels.end_of(manager, requirement)
        require(statuses == [again] * 3, requirement, [*statuses, again])


async def _wait_is_cancellable(kernels: _Kernels) -> None:
    requirement = "a cancelled wait() changes nothing for the process and for others who wait"
    async with kernels.manager() as manager:
        with kernels.checking(requirement):
            async with anyio.create_task_group() as tasks:
                # Cancel the first waiter: the manager may watch the process in that task.
                async with anyio.create_task_group() as cancelled:
                    cancelled.start_soon(manager.wait)
                    await anyio.sleep(_A_MOMENT)
                    tasks.start_soon(manager.wait)
                    await anyio.sleep(_A_MOMENT)
                    cancelled.cancel_scope.cancel()
                require(await manager.is_alive(), requirement, "the end")
                await manager.kill()
        await kernels.end_of(manager, requirement)


async def _everything_may_be_called_later(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.checking("kill() raises nothing"):
            await manager.kill()
        status = await kernels.end_of(manager, "kill() ends the process")
        await _may_be_called(kernels, manager, "once the process has ended")
        with kernels.checking("cleanup() may be called once the process has ended"):
            await manager.cleanup()
        await _may_be_called(kernels, manager, "after cleanup()")
        again = await kernels.end_of(manager, "wait() may be called after cleanup()")
        require(again == status, "wait() returns the same exit status every time", again)


async def _cleanup_ends_it(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.checking("cleanup() may be called while the process runs"):
            await manager.cleanup()
        await kernels.require_dead(manager, "cleanup() ends the process")


async def _cleanup_is_idempotent(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.checking("cleanup() may be called again"):
            await manager.cleanup()
            await manager.cleanup()
        await kernels.require_dead(manager, "cleanup() ends the process")
    async with kernels.manager() as manager:
        with kernels.checking("cleanup() may be called by several tasks at once"):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(manager.cleanup)
        await kernels.require_dead(manager, "cleanup() ends the process")


async def _cleanup_is_cancellable(kernels: _Kernels) -> None:
    requirement = "cleanup() does all its work after another call of it was cancelled"
    async with kernels.manager() as manager:
        with kernels.checking(requirement):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await manager.cleanup()
            await manager.cleanup()
        await kernels.require_dead(manager, requirement)
    requirement = "cleanup() does all its work while another call of it is cancelled"
    async with kernels.manager() as manager:
        with kernels.checking(requirement):
            async with anyio.create_task_group() as tasks, anyio.create_task_group() as cancelled:
                cancelled.start_soon(manager.cleanup)
                await checkpoint()
                tasks.start_soon(manager.cleanup)
                await checkpoint()
                cancelled.cancel_scope.cancel()
        await kernels.require_dead(manager, requirement)


async def _describes_failures(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        if isinstance(manager, DescribesFailure):
            with kernels.checking("output_tail() may be called at any time"):
                manager.output_tail()
                await manager.cleanup()
                manager.output_tail()
            _require_description(manager)


async def _files_are_removed(kernels: _Kernels) -> None:
    async with kernels.running() as (info, manager):
        with kernels.checking("cleanup() raises nothing"):
            await manager.cleanup()
        left = [*_sockets(info), *_files_with_the_key(info)]
        require(not left, "cleanup() removes every file that the launch created", left)


async def _nothing_is_left(kernels: _Kernels) -> None:
    # Runs last: things that only the first kernel opens and later kernels share are open already.
    before = belongings()
    for _ in range(3):
        async with kernels.manager() as manager:
            await _still_waits(kernels, manager)
            with kernels.checking("cleanup() raises nothing"):
                await manager.cleanup()
    left = await gone(before, kernels.patience)
    require(not left, "cleanup() leaves no process and no open descriptor", sorted(left))


async def _still_waits(kernels: _Kernels, manager: KernelManager) -> None:
    requirement = "wait() waits while the process runs"
    with kernels.checking(requirement), anyio.move_on_after(_A_MOMENT):
        status = await manager.wait()
        require(False, requirement, f"exit status {status}")
    requirement = "a cancelled wait() changes nothing for the process and for others who wait"
    with kernels.checking(requirement):
        require(await manager.is_alive(), requirement, "the end")


async def _interrupt(manager: KernelManager) -> None:
    with suppress(UnsupportedRequest):
        await manager.interrupt()


async def _may_be_called(kernels: _Kernels, manager: KernelManager, when: str) -> None:
    calls: Mapping[str, Callable[[], Awaitable[object]]] = {
        "signal": partial(manager.signal, _SIGKILL),
        "interrupt": partial(_interrupt, manager),
        "terminate": manager.terminate,
        "kill": manager.kill,
    }
    for name, call in calls.items():
        with kernels.checking(f"{name}() may be called {when}"):
            await call()
            await call()


def _require_killed(status: int | None) -> None:
    fulfilled = status in (None, -_SIGKILL) or os.name != "posix"
    require(fulfilled, "a negative exit status is the number of the signal that ended it", status)


def _require_description(manager: DescribesFailure) -> None:
    requirement = "command is the command line, a sequence of str"
    require(len(manager.command) > 0, requirement, manager.command)
    for argument in manager.command:
        require_type(argument, str, requirement)
    require_type(manager.output_tail(), str, "output_tail() returns text")


def _sockets(info: ConnectionInfo) -> Iterator[str]:
    """Find the sockets that an ipc kernel has bound."""
    if info.transport == "ipc":
        paths = (info.endpoint(channel).removeprefix("ipc://") for channel in CHANNEL_NAMES)
        yield from filter(os.path.exists, paths)


def _files_with_the_key(info: ConnectionInfo) -> Iterator[str]:
    """Find the kernel's connection file in Jupyter's runtime folder."""
    with suppress(FileNotFoundError):
        for entry in os.scandir(runtime_folder()):
            with suppress(OSError):
                if info.key and info.key.encode() in read_regular_file(entry.path):
                    yield entry.path


_CHECKS: Sequence[Callable[[_Kernels], Awaitable[None]]] = (
    _is_a_manager,
    _lives_until_it_is_ended,
    _kill_ends_it,
    _signal_reaches_it,
    _terminate_ends_it,
    _interrupt_is_done_or_refused,
    _several_tasks_wait,
    _wait_is_cancellable,
    _everything_may_be_called_later,
    _cleanup_ends_it,
    _cleanup_is_idempotent,
    _cleanup_is_cancellable,
    _describes_failures,
    _files_are_removed,
    _nothing_is_left,
)
