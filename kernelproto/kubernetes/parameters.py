"""The launch parameters of a kernel in a pod, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.kubernetes.pod import CONNECTION_FILE
from kernelproto.kubernetes.settings import Label, PodKernel
from kernelproto.launch.spec.parameters import (
    LaunchParameters,
    fill_in,
    kernel_environment,
    require_known,
)
from kernelproto.launch.spec.schema import ParameterSchema

_TAKES = ("env", "transport", "encryption", "detached", "listed_as")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One launch.

    Args:
        command: the command line; the host fills in ``{connection_file}``.
        env: the variables of the kernel, in addition to those of the pod.
        linger: seconds that the kernel goes on without an owner; None means without a limit.
        resources: the resources of the container.
        listed_as: the id under which other programs find the kernel; "" for that of the kernel.
    """

    command: tuple[str, ...]
    env: Mapping[str, str]
    linger: float | None
    resources: Mapping[str, Any]
    listed_as: str


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
    if not is_label(parameters.listed_as):
        raise InvalidLaunchParameter(
            f"launch parameter 'listed_as' cannot be {parameters.listed_as[:100]!r}: the id "
            "becomes a label of the pod, so give at most 63 letters, digits and ._- with a letter "
            "or digit at both ends"
        )
    # Nothing is inherited from this program, which is on another machine.
    variables = kernel_environment(kernel.env, parameters.env, parameters.values, inherited={})
    names = {"connection_file": CONNECTION_FILE, "kernel_id": kernel_id}
    return Launch(
        command=tuple(fill_in(kernel.command, {**parameters.values, **names})),
        env=variables,
        linger=None if parameters.detached else kernel.linger,
        resources=_resources(kernel, parameters.values),
        listed_as=parameters.listed_as,
    )


def is_label(text: str) -> bool:
    """Return whether a text can be the value of a label."""
    try:
        msgspec.convert(text, Label)
    except msgspec.ValidationError:
        return False
    return True


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
