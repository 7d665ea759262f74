"""check_kernel_manager: whether a KernelManager keeps what its Protocol promises."""

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
from kernelproto.testing.contract import promised, require, require_type
from kernelproto.testing.leftovers import belongings, gone
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo

Launch: TypeAlias = Callable[[], Awaitable[tuple[ConnectionInfo, KernelManager]]]

_NO_SIGNAL, _SIGKILL = 0, 9

# Long enough to notice that something returns which should wait, and for tasks to get to where they
# wait.
_A_MOMENT = 0.02


async def check_kernel_manager(launch: Launch, *, patience: float = 10.0) -> None:
    """Check everything that ``interfaces.KernelManager`` promises.

    It launches some twenty kernels and uses them up. They need not answer messages: any process
    will do that goes on until it is told to end, and ends on SIGTERM. Meanwhile nothing else in
    this program may start processes or open files.

    Args:
        launch: starts a kernel and returns what KernelProvider.launch() returns.
        patience: how long anything may take before it counts as never, in seconds.

    Raises:
        AssertionError: a promise is broken; its text says which.
    """
    kernels = _Kernels(launch, patience)
    for check in _CHECKS:
        await check(kernels)


@dataclass(frozen=True)
class _Kernels:
    """Where the kernels come from that the checks use up."""

    launch: Launch
    patience: float

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[tuple[ConnectionInfo, KernelManager]]:
        """Launch a kernel for the block."""
        with self.promised("launch() starts a kernel"):
            info, manager = await self.launch()
        try:
            yield info, manager
        finally:
            # Whether these work is for the checks to say.
            with anyio.move_on_after(self.patience, shield=True):
                for end in (manager.kill, manager.cleanup):
                    with suppress(Exception):
                        await end()

    @asynccontextmanager
    async def manager(self) -> AsyncGenerator[KernelManager]:
        """Launch a kernel for the block; give its manager alone."""
        async with self.running() as (_, manager):
            yield manager

    def promised(self, promise: str) -> AbstractContextManager[None]:
        return promised(promise, self.patience)

    async def end_of(self, manager: KernelManager, promise: str) -> int | None:
        """Wait for the end that was promised, and see that everybody agrees about it."""
        with self.promised(promise):
            status = await manager.wait()
        require_type(status, int | NoneType, "wait() returns an exit status, or None")
        await self.require_dead(manager, "is_alive() is False once wait() has returned")
        return status

    async def require_dead(self, manager: KernelManager, promise: str) -> None:
        with self.promised(promise):
            alive = await manager.is_alive()
            require(alive is False, promise, alive)


async def _is_a_manager(kernels: _Kernels) -> None:
    async with kernels.manager() as one, kernels.manager() as other:
        require_type(one, KernelManager, "it has all that a KernelManager has")
        require_type(one.kernel_id, str, "kernel_id is a str")
        different = "kernel_id is another one for every kernel"
        require("" != one.kernel_id != other.kernel_id, different, one.kernel_id)


async def _lives_until_it_is_ended(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.promised("is_alive() is True while the process runs"):
            alive = await manager.is_alive()
            require(alive is True, "is_alive() is True while the process runs", alive)
        with kernels.promised("signal(0) changes nothing"):
            await manager.signal(_NO_SIGNAL)
            require(await manager.is_alive(), "signal(0) changes nothing", "the end")
        await _still_waits(kernels, manager)


async def _kill_ends_it(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.promised("kill() raises nothing"):
            await manager.kill()
        _require_killed(await kernels.end_of(manager, "kill() ends the process"))


async def _signal_reaches_it(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.promised("signal() raises nothing"):
            await manager.signal(_SIGKILL)
        _require_killed(await kernels.end_of(manager, "signal() sends the signal"))


async def _terminate_ends_it(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.promised("terminate() raises nothing"):
            await manager.terminate()
        await kernels.end_of(manager, "terminate() asks the process to end")


async def _interrupt_is_done_or_refused(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.promised("interrupt() raises nothing but UnsupportedRequest"):
            await _interrupt(manager)


async def _several_tasks_wait(kernels: _Kernels) -> None:
    promise = "wait() returns the same exit status to several tasks"
    statuses: list[int | None] = []
    async with kernels.manager() as manager:

        async def wait() -> None:
            statuses.append(await manager.wait())

        with kernels.promised(promise):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(wait)
                await anyio.sleep(_A_MOMENT)
                await manager.kill()
        again = await kernels.end_of(manager, promise)
        require(statuses == [again] * 3, promise, [*statuses, again])


async def _wait_is_cancellable(kernels: _Kernels) -> None:
    promise = "a cancelled wait() changes nothing for the process and for others who wait"
    async with kernels.manager() as manager:
        with kernels.promised(promise):
            async with anyio.create_task_group() as tasks:
                # The one that waits longest is cancelled: it may be watching for the others.
                async with anyio.create_task_group() as cancelled:
                    cancelled.start_soon(manager.wait)
                    await anyio.sleep(_A_MOMENT)
                    tasks.start_soon(manager.wait)
                    await anyio.sleep(_A_MOMENT)
                    cancelled.cancel_scope.cancel()
                require(await manager.is_alive(), promise, "the end")
                await manager.kill()
        await kernels.end_of(manager, promise)


async def _everything_may_be_called_later(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.promised("kill() raises nothing"):
            await manager.kill()
        status = await kernels.end_of(manager, "kill() ends the process")
        await _may_be_called(kernels, manager, "once the process has ended")
        with kernels.promised("cleanup() may be called once the process has ended"):
            await manager.cleanup()
        await _may_be_called(kernels, manager, "after cleanup()")
        again = await kernels.end_of(manager, "wait() may be called after cleanup()")
        require(again == status, "wait() returns the same exit status every time", again)


async def _cleanup_ends_it(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.promised("cleanup() may be called while the process runs"):
            await manager.cleanup()
        await kernels.require_dead(manager, "cleanup() ends the process")


async def _cleanup_is_idempotent(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        with kernels.promised("cleanup() may be called again"):
            await manager.cleanup()
            await manager.cleanup()
        await kernels.require_dead(manager, "cleanup() ends the process")
    async with kernels.manager() as manager:
        with kernels.promised("cleanup() may be called by several tasks at once"):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(manager.cleanup)
        await kernels.require_dead(manager, "cleanup() ends the process")


async def _cleanup_is_cancellable(kernels: _Kernels) -> None:
    promise = "cleanup() does all its work after another call of it was cancelled"
    async with kernels.manager() as manager:
        with kernels.promised(promise):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await manager.cleanup()
            await manager.cleanup()
        await kernels.require_dead(manager, promise)
    promise = "cleanup() does all its work while another call of it is cancelled"
    async with kernels.manager() as manager:
        with kernels.promised(promise):
            async with anyio.create_task_group() as tasks, anyio.create_task_group() as cancelled:
                cancelled.start_soon(manager.cleanup)
                await checkpoint()
                tasks.start_soon(manager.cleanup)
                await checkpoint()
                cancelled.cancel_scope.cancel()
        await kernels.require_dead(manager, promise)


async def _describes_failures(kernels: _Kernels) -> None:
    async with kernels.manager() as manager:
        if isinstance(manager, DescribesFailure):
            with kernels.promised("output_tail() may be called at any time"):
                manager.output_tail()
                await manager.cleanup()
                manager.output_tail()
            _require_description(manager)


async def _files_are_removed(kernels: _Kernels) -> None:
    async with kernels.running() as (info, manager):
        with kernels.promised("cleanup() raises nothing"):
            await manager.cleanup()
        left = [*_sockets(info), *_files_with_the_key(info)]
        require(not left, "cleanup() removes every file that the launch has made", left)


async def _nothing_is_left(kernels: _Kernels) -> None:
    # After all the checks above: what only the first kernel leaves is kept for the next ones.
    before = belongings()
    for _ in range(3):
        async with kernels.manager() as manager:
            await _still_waits(kernels, manager)
            with kernels.promised("cleanup() raises nothing"):
                await manager.cleanup()
    left = await gone(before, kernels.patience)
    require(not left, "cleanup() leaves no process and no open descriptor", sorted(left))


async def _still_waits(kernels: _Kernels, manager: KernelManager) -> None:
    promise = "wait() waits while the process runs"
    with kernels.promised(promise), anyio.move_on_after(_A_MOMENT):
        status = await manager.wait()
        require(False, promise, f"exit status {status}")
    promise = "a cancelled wait() changes nothing for the process and for others who wait"
    with kernels.promised(promise):
        require(await manager.is_alive(), promise, "the end")


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
        with kernels.promised(f"{name}() may be called {when}"):
            await call()
            await call()


def _require_killed(status: int | None) -> None:
    kept = status in (None, -_SIGKILL) or os.name != "posix"
    require(kept, "a negative exit status is the number of the signal that ended it", status)


def _require_description(manager: DescribesFailure) -> None:
    promise = "command is the command line, a sequence of str"
    require(len(manager.command) > 0, promise, manager.command)
    for argument in manager.command:
        require_type(argument, str, promise)
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
