"""From a kernelspec and launch parameters to a kernel that runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from itertools import pairwise

from kernelproto.exceptions import InvalidKernelSpec, InvalidLaunchParameter
from kernelproto.interfaces import KernelManager
from kernelproto.launch.address.connection_file import LOOPBACK, Transport
from kernelproto.launch.address.paths import choose_socket_folder
from kernelproto.launch.launcher import launch_local
from kernelproto.launch.process.interface import Spawn
from kernelproto.launch.programs import ipykernel
from kernelproto.launch.spec.encryption import is_encrypted, supports_curve
from kernelproto.launch.spec.kernelspec import KernelSpec
from kernelproto.launch.spec.parameters import (
    LaunchParameters,
    kernel_environment,
    with_this_python,
)
from kernelproto.transport.curve import has_curve
from kernelproto.wire.connection import ConnectionInfo
from kernelproto.wire.registration import registers

# All ids are equally long, so that there is room for the sockets of each kernel or of none.
_ANY_KERNEL_ID = "0" * 36

_IPYKERNEL_MODULES = {"ipykernel", "ipykernel_launcher"}


async def launch_kernelspec(
    provider_id: str,
    kernelspec: KernelSpec,
    cwd: str | None,
    launch_params: Mapping[str, object] | None,
    *,
    spawn: Spawn | None = None,
) -> tuple[ConnectionInfo, KernelManager]:
    """Start the kernel that a kernelspec describes; it is not ready yet when this returns.

    Args:
        provider_id: whose kernel type it is.
        kernelspec: the description.
        cwd: the kernel's working directory; None means the caller's.
        launch_params: see LaunchParameters.
        spawn: starts the process; by default as a program of its own.

    Raises:
        InvalidKernelSpec: it cannot be used.
        InvalidLaunchParameter: a parameter is missing, not allowed or unknown.
        LaunchError: the kernel cannot be started.
    """
    fault = kernelspec.launch_fault()
    if fault is not None:
        raise fault
    parameters = LaunchParameters.check(
        launch_params,
        argv=kernelspec.argv,
        env=kernelspec.env,
        schema=kernelspec.parameter_schema(),
    )
    command = [*with_this_python(kernelspec.argv), *parameters.extra_arguments]
    if not any("{connection_file}" in argument for argument in command):
        raise InvalidKernelSpec(
            f"{kernelspec.path}: 'argv' has no '{{connection_file}}', without which the kernel "
            "cannot know where to listen: add it where the kernel takes that file, or in "
            "extra_arguments",
            path=kernelspec.path,
            key="argv",
        )
    transport, ip = _address(parameters, kernelspec.argv)
    return await launch_local(
        command,
        env=kernel_environment(kernelspec.env, parameters.env, parameters.values),
        cwd=cwd,
        transport=transport,
        ip=ip,
        encrypted=is_encrypted(
            parameters.encryption,
            transport=transport,
            ip=ip,
            kernel_can=supports_curve(kernelspec.metadata),
            we_can=has_curve(),
        ),
        registers=registers(kernelspec.kernel_protocol_version),
        interrupt_mode=kernelspec.interrupt_mode,
        kernel_name=f"{provider_id}/{kernelspec.name}",
        values={
            **parameters.values,
            "prefix": sys.prefix,
            "resource_dir": kernelspec.resource_dir,
        },
        limits=parameters.limits,
        detached=parameters.detached,
        output=parameters.output,
        spawn=spawn,
    )


def _address(parameters: LaunchParameters, argv: Sequence[str]) -> tuple[Transport, str]:
    """Return the transport and the address to bind: loopback, unless another is asked for."""
    if parameters.ip is None:
        return parameters.transport or _natural_transport(argv), LOOPBACK
    if parameters.transport == "ipc":
        raise InvalidLaunchParameter(
            "launch parameter 'ip' has no meaning with ipc: leave one of them out"
        )
    try:
        return "tcp", str(IPv4Address(parameters.ip))
    except ValueError:
        raise InvalidLaunchParameter(
            f"launch parameter 'ip' must be an IPv4 address, not {parameters.ip!r}"
        ) from None


def _natural_transport(argv: Sequence[str]) -> Transport:
    """Return ipc where it is known to work: no port can be taken, no other user can connect."""
    program, *arguments = argv
    # Only where this machine's python runs it: inside ssh or docker our sockets are not there.
    runs_ipykernel = ipykernel.__file__ in arguments or any(
        option == "-m" and module in _IPYKERNEL_MODULES for option, module in pairwise(arguments)
    )
    is_python = os.path.basename(program).startswith("python")
    has_ipc = os.name == "posix" and choose_socket_folder(_ANY_KERNEL_ID) is not None
    return "ipc" if is_python and runs_ipykernel and has_ipc else "tcp"
