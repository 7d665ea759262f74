"""The launch parameters of a kernel in a pod, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.kubernetes.pod import CONNECTION_FILE
from kernelproto.kubernetes.settings import PodKernel
from kernelproto.launch.spec.parameters import (
    LaunchParameters,
    fill_in,
    kernel_environment,
    require_known,
)
from kernelproto.launch.spec.schema import ParameterSchema

_TAKES = ("env", "transport", "encryption", "detached")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One launch.

    Args:
        command: the command line; the host fills in ``{connection_file}``.
        env: the variables of the kernel, in addition to those of the pod.
        linger: seconds that the kernel goes on without an owner; None means without a limit.
        resources: the resources of the container.
    """

    command: tuple[str, ...]
    env: Mapping[str, str]
    linger: float | None
    resources: Mapping[str, Any]


def check_launch(
    kernel: PodKernel,
    kernel_type: str,
    kernel_id: str,
    launch_params: Mapping[str, object] | None,
) -> Launch:
    """Check the parameters of a launch.

    Raises:
        InvalidLaunchParameter: a parameter is unknown, has a value that is not allowed, or is not
            possible in a pod.
        InvalidKernelSpec: the schema of the kernel type cannot be used.
    """
    parameters = LaunchParameters.check(
        launch_params,
        argv=kernel.command,
        env=kernel.env,
        schema=ParameterSchema(kernel.schema, path=kernel_type, key="schema"),
    )
    require_known(parameters, _TAKES, "a kernel in a pod")
    if parameters.transport == "tcp":
        raise InvalidLaunchParameter(
            "launch parameter 'transport' cannot be 'tcp': a kernel in a pod listens on ipc, and "
            "the host in its pod passes its messages on over tcp with TLS"
        )
    # Nothing is inherited from this program, which is on another machine.
    variables = kernel_environment(kernel.env, parameters.env, parameters.values, inherited={})
    names = {"connection_file": CONNECTION_FILE, "kernel_id": kernel_id}
    return Launch(
        command=tuple(fill_in(kernel.command, {**parameters.values, **names})),
        env=variables,
        linger=None if parameters.detached else kernel.linger,
        resources=_resources(kernel, parameters.values),
    )


def _resources(kernel: PodKernel, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the resources of the settings, with those of the launch parameters in their place."""
    resources = {key: dict(amounts) for key, amounts in kernel.resources.items()}
    for parameter, resource in (
        ("cpu", "cpu"),
        ("memory", "memory"),
        ("gpu", kernel.gpu_resource),
    ):
        if parameter in values:
            for key in ("requests", "limits"):
                resources.setdefault(key, {})[resource] = values[parameter]
    return resources
