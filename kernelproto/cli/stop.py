"""``kernelproto stop``: shuts running kernels down, including those of other programs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import anyio

from kernelproto.cli.errors import FAILED, CliError, describe, print_error
from kernelproto.cli.inventory import RunningKernel, find_running_kernels, with_states
from kernelproto.client.client import open_client
from kernelproto.exceptions import (
    DiscoveryError,
    KernelInUse,
    KernelNotReady,
    KernelProtoError,
)
from kernelproto.launch.address.ports import listens_at
from kernelproto.launch.leftovers.running import read_connection_file
from kernelproto.launch.programs.watchdog import kill_group
from kernelproto.run import adopt_kernel
from kernelproto.timeouts import Timeouts

# The time for a kernel to shut down, and the interval between checks of the kernel's state.
_END_SECONDS = 10.0
_LOOK_SECONDS = 0.05

# An adopted kernel is ended even without an answer.
_ADOPTION = Timeouts(startup=2.0)


def stop_kernels(names: Sequence[str], *, every: bool, kept: bool, force: bool) -> int:
    """Shut kernels down, and print the outcome for each; return the exit status.

    Args:
        names: ids, prefixes of ids, process ids, or paths of connection files.
        every: whether to stop all running kernels instead.
        kept: whether to stop the kernels that outlive their program and have no owner instead.
        force: whether to kill kernels that do not shut down.

    Raises:
        CliError: a name matches no kernel, or several.
    """
    if bool(names) + every + kept != 1:
        raise CliError(
            "name the kernels to stop, or use --all or --kept; `kernelproto ps` lists them"
        )
    kernels = find_running_kernels()
    if names:
        chosen = [choose(name, kernels) for name in names]
    else:
        chosen = [kernel for kernel in kernels if every or _may_be_kept(kernel)]
    once = {kernel.connection_file: kernel for kernel in chosen}
    stop = partial(_stop_kept if kept else _stop, force=force)
    return anyio.run(_stop_all, list(once.values()), stop)


def _may_be_kept(kernel: RunningKernel) -> bool:
    """Return whether a kernel outlives programs, without an owner in the record.

    Only the host of a kernel knows which program owns the kernel.
    """
    record = kernel.record
    if record is None:
        return False
    return record.host is not None or (record.detached and kernel.owner_pid is None)


def choose(name: str, kernels: Sequence[RunningKernel]) -> RunningKernel:
    """Return the kernel that *name* identifies.

    Raises:
        CliError: the name matches no kernel, or several.
    """
    found = [kernel for kernel in kernels if name in _names(kernel)] or [
        kernel for kernel in kernels if name and kernel.kernel_id.startswith(name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(kernel.kernel_id for kernel in found)
        raise CliError(f"{name!r} matches several kernels: {ids}")
    raise CliError(f"no running kernel matches {name!r}; `kernelproto ps` lists them")


def _names(kernel: RunningKernel) -> set[str]:
    pid = set[str]() if kernel.process is None else {str(kernel.process.pid)}
    path = kernel.connection_file
    return {kernel.kernel_id, path, os.path.relpath(path), os.path.basename(path)} | pid


async def _stop_all(
    kernels: list[RunningKernel], stop_one: Callable[[RunningKernel], Awaitable[str | None]]
) -> int:
    failed = False
    outcomes: dict[str, str | Exception] = {}

    async def stop(kernel: RunningKernel) -> None:
        try:
            outcome = await stop_one(kernel)
            if outcome is not None:
                outcomes[kernel.connection_file] = outcome
        except (KernelProtoError, CliError) as error:
            outcomes[kernel.connection_file] = error

    kernels = await with_states(kernels)
    async with anyio.create_task_group() as tasks:
        for kernel in kernels:
            tasks.start_soon(stop, kernel)
    for kernel in kernels:
        outcome = outcomes.get(kernel.connection_file)
        if isinstance(outcome, Exception):
            failed = True
            print_error(f"{kernel.kernel_id}: {describe(outcome)}")
        elif outcome is not None:
            print(f"{kernel.kernel_id}: {outcome}")
    if not outcomes:
        print("No kernels are running.", file=sys.stderr)
    return FAILED if failed else 0


async def _stop_kept(kernel: RunningKernel, *, force: bool) -> str | None:
    """Stop a kernel without an owner and return the outcome; return None if there is an owner."""
    try:
        await _adopt_and_end(kernel)
    except KernelInUse:
        return None
    except DiscoveryError:  # the kernel has ended, or cannot be adopted
        return await _stop(kernel, force=force)
    return "stopped"


async def _stop(kernel: RunningKernel, *, force: bool) -> str:
    record = kernel.record
    if kernel.state == "elsewhere":
        raise CliError("the kernel runs on another machine or in another container; stop it there")
    if kernel.state == "starting":
        raise CliError("the kernel is still starting; try again in a moment")
    if kernel.state == "dead":
        if not _remove_leftovers(kernel):
            raise CliError("its process id now belongs to another process; its files are kept")
        return "already dead, files removed"
    if record is not None and (record.host is not None or record.ownership.holder is None):
        with suppress(KernelInUse):  # a program that uses the kernel in a host
            await _adopt_and_end(kernel)
            return "stopped"
    if kernel.state == "alive":
        with anyio.move_on_after(_END_SECONDS), suppress(KernelProtoError):
            async with open_client(read_connection_file(kernel.connection_file)) as client:
                await client.shutdown()
        if await _ends(kernel):
            if record is not None and record.detached:  # the owner removes the files late or never
                record.clear_up()
            return "stopped"
    if not force:
        raise CliError("the kernel does not shut down; use --force to kill it")
    if kernel.process is None:
        raise CliError("the kernel's process is unknown, so it cannot be killed")
    if not _is_of(kernel, kernel.process.pid):
        raise CliError(f"process {kernel.process.pid} may not be this kernel; it is not killed")
    kill_group(kernel.process.pid, kernel.process.started)
    return "killed" if await _ends(kernel) else "killed, but the process has not ended yet"


async def _adopt_and_end(kernel: RunningKernel) -> None:
    with suppress(KernelNotReady):  # then adopt_kernel has killed the kernel
        async with adopt_kernel(kernel.connection_file, timeouts=_ADOPTION):
            pass


async def _ends(kernel: RunningKernel) -> bool:
    """Wait until a kernel has ended; return False after a timeout."""
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        if kernel.process is None:
            (now,) = await with_states([kernel])
            if now.state == "dead":
                return True
        elif kernel.process.is_gone:
            return True
        await anyio.sleep(_LOOK_SECONDS)
    return False


def _is_of(kernel: RunningKernel, pid: int) -> bool:
    """Return whether a process is verifiably the kernel, and not a client of the kernel."""
    if kernel.record is not None:
        return kernel.record.is_of(pid)
    return listens_at(read_connection_file(kernel.connection_file), pid)


def _remove_leftovers(kernel: RunningKernel) -> bool:
    if kernel.record is not None:
        return kernel.record.clear_up()
    with suppress(FileNotFoundError):
        os.unlink(kernel.connection_file)
    return True
