"""Raising DeadKernel in calls that wait for a message of a kernel whose process ends."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio
from jupyter_client.manager import KernelManager

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import KernelDied
from kernelproto.jupyter.provisioner import KernelProtoProvisioner
from kernelproto.launch.failures import describe_exit
from kernelproto.launch.local import LocalKernelManager

T = TypeVar("T")

# Messages from before the end of the kernel are in transit, and arrive in this time.
LAST_MESSAGES_SECONDS = 0.1


class DeadKernel(KernelDied, RuntimeError):
    """The kernel's process has ended, so no message will come.

    A RuntimeError, as jupyter_client raises for a kernel that died.
    """


async def until_death(manager: object, awaitable: Awaitable[T]) -> T:
    """Return the result of an awaitable, or raise DeadKernel soon after the kernel's process ends.

    Args:
        manager: the KernelManager of the kernel; without one, or if another provisioner than
            KernelProtoProvisioner has started the kernel, the end is not noticed.
        awaitable: cancelled after the end.
    """
    if not _is_watched(manager):
        return await awaitable
    kernel = _kernel_of(manager)

    async def watch(scope: anyio.CancelScope) -> None:
        if kernel is not None:
            await kernel.wait()
        await anyio.sleep(LAST_MESSAGES_SECONDS)
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with background_tasks() as tasks:
            tasks.start_soon(watch, scope)
            return await awaitable
    raise dead_kernel(manager, kernel)


def has_died(manager: object) -> bool:
    """Return whether the kernel of a KernelManager has no process any more; False if unknown."""
    if not _is_watched(manager):
        return False
    kernel = _kernel_of(manager)
    return kernel is None or kernel.has_ended


def dead_kernel(manager: object, kernel: LocalKernelManager | None = None) -> DeadKernel:
    """Return the exception for a kernel after the end of its process.

    Args:
        manager: the KernelManager.
        kernel: the handle on the process; None means that of the manager.
    """
    kernel = kernel or _kernel_of(manager)
    if kernel is None:
        return DeadKernel("the kernel has been shut down: start it again")
    reason = kernel.death_reason()
    words = describe_exit(kernel.returncode) + (f" ({reason})" if reason else "")
    return DeadKernel(f"the kernel died: {words}", returncode=kernel.returncode, reason=reason)


def _is_watched(manager: object) -> bool:
    """Return whether this package has started the kernel."""
    return _provisioner_of(manager) is not None


def _kernel_of(manager: object) -> LocalKernelManager | None:
    provisioner = _provisioner_of(manager)
    return None if provisioner is None else provisioner.local_manager


def _provisioner_of(manager: object) -> KernelProtoProvisioner | None:
    provisioner = manager.provisioner if isinstance(manager, KernelManager) else None
    return provisioner if isinstance(provisioner, KernelProtoProvisioner) else None
