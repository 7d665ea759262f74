"""Finding kernels whose launch was interrupted: after the start, before a handle was stored."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from kernelproto.exceptions import LaunchError
from kernelproto.interfaces import KernelHandle
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.provider_faults import BrokenProvider, faults_named


@runtime_checkable
class FindsLaunched(Protocol):
    """Optional part of a KernelProvider: finds kernels by the id under which they are listed.

    A provider needs this part if its kernels have no records on this machine.
    """

    async def find_launched(self, name: str, kernel_id: str, /) -> KernelHandle | None:
        """Return the handle of the running kernel that is listed under an id; None without one.

        Args:
            name: the name of the kernel type, without the provider.
            kernel_id: the launch parameter ``listed_as`` of the kernel's launch.

        Raises:
            LaunchError: the place where the kernel would run cannot be reached now.
        """
        ...


async def find_launched(
    finder: KernelFinder, kernel_type: str, kernel_id: str
) -> KernelHandle | None:
    """Return the handle of the running kernel that is listed under an id; None without one.

    Args:
        finder: has the providers.
        kernel_type: the kernel type of the launch.
        kernel_id: the launch parameter ``listed_as`` of the launch.

    Raises:
        KernelInUse: a running program is launching the kernel.
        DiscoveryError: there are too few file descriptors to find out.
        LaunchError: the place where the kernel would run cannot be reached now.
    """
    from kernelproto.launch.adopt import LocalHost  # few programs need this module

    handle = await LocalHost().find_launched(kernel_id)
    if handle is not None:
        return handle
    for provider, name in finder.candidates(kernel_type):
        if isinstance(provider, FindsLaunched):
            try:
                with faults_named(provider.id, kernel_id, "finding"):
                    handle = await provider.find_launched(name, kernel_id)
            except BrokenProvider as error:
                raise LaunchError(str(error)) from error.__cause__
            if handle is not None:
                return handle
    return None
