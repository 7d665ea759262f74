"""The launch parameters of one batch job, checked, and the texts that follow from them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence

import msgspec

from kernelproto.exceptions import InvalidKernelSpec, InvalidLaunchParameter
from kernelproto.launch.batch.folder import JobPlan
from kernelproto.launch.batch.settings import BatchKernel
from kernelproto.launch.batch.system import JobOptions
from kernelproto.launch.programs.watchdog import KERNEL_ID_VARIABLE
from kernelproto.launch.spec.encryption import is_encrypted
from kernelproto.launch.spec.parameters import (
    LaunchParameters,
    fill_in,
    kernel_environment,
    require_known,
)
from kernelproto.launch.spec.schema import ParameterSchema
from kernelproto.transport.curve import has_curve

_TAKES = ("env", "transport", "encryption", "detached", "listed_as")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One launch.

    Args:
        kernel_type: ``provider/name``.
        argv: the command line, with names in braces.
        values: for these names.
        env: the variables of the kernel.
        cwd: the working directory; None means the folder of the kernel.
        encrypted: whether the kernel gets CurveZMQ keys.
        linger: seconds that the kernel goes on without an owner; None means to the end of the job.
        options: the resources that the job asks for.
        listed_as: the id under which other programs find the kernel; "" for that of the kernel.
    """

    kernel_type: str
    argv: Sequence[str]
    values: Mapping[str, str]
    env: Mapping[str, str]
    cwd: str | None
    encrypted: bool
    linger: float | None
    options: JobOptions
    listed_as: str = ""

    def command(self, kernel_id: str, connection_file: str) -> tuple[str, ...]:
        """Return the command line with every name in braces filled in."""
        names = {"connection_file": connection_file, "kernel_id": kernel_id}
        return tuple(fill_in(self.argv, {**self.values, **names}))

    def plan(self, command: Sequence[str], kernel_id: str) -> JobPlan:
        """Return the plan for the first process of the job."""
        env = {**self.env, KERNEL_ID_VARIABLE: kernel_id}
        return JobPlan(argv=command, env=env, cwd=self.cwd, linger=self.linger)

    def script(self, kernel: BatchKernel, program: str, folder: str) -> str:
        """Return the script of the job. Slurm may store it, so it has no variables and no keys."""
        run = shlex.join([kernel.python, program, folder])
        return "\n".join(["#!/bin/sh", *kernel.prologue, f"exec {run}", ""])


def check_launch(
    kernel: BatchKernel,
    kernel_type: str,
    cwd: str | None,
    launch_params: Mapping[str, object] | None,
) -> Launch:
    """Check the parameters of a launch, and the working directory.

    Raises:
        InvalidLaunchParameter: a parameter is unknown, has a value that is not allowed, or is not
            possible in a batch job.
        InvalidKernelSpec: the schema of the kernel type cannot be used.
    """
    parameters = LaunchParameters.check(
        launch_params,
        argv=kernel.command,
        env=kernel.env,
        schema=ParameterSchema(kernel.schema, path=kernel_type, key="schema"),
    )
    require_known(parameters, _TAKES, "a kernel that runs as a batch job")
    if parameters.transport == "ipc":
        raise InvalidLaunchParameter(
            "launch parameter 'transport' cannot be 'ipc': a kernel that runs as a batch job is on "
            "another machine"
        )
    if cwd is not None:
        cwd = os.path.abspath(cwd)
        if not os.path.isdir(cwd):
            raise InvalidLaunchParameter(f"the working directory {cwd!r} does not exist")
    variables = kernel_environment(
        kernel.env, parameters.env, parameters.values, inherited=os.environ
    )
    return Launch(
        kernel_type=kernel_type,
        argv=kernel.command,
        values=parameters.values,
        env={name: variables[name] for name in (*kernel.env, *parameters.env)},
        cwd=cwd,
        encrypted=is_encrypted(
            parameters.encryption,
            transport="tcp",
            ip=kernel.bind,
            kernel_can=kernel.encryption,
            we_can=has_curve(),
        ),
        linger=None if parameters.detached else kernel.linger,
        options=_options(kernel, parameters, launch_params or {}, kernel_type),
        listed_as=parameters.listed_as,
    )


def _options(
    kernel: BatchKernel,
    parameters: LaunchParameters,
    launch_params: Mapping[str, object],
    kernel_type: str,
) -> JobOptions:
    """Return the options of the job: the launch parameters, and for the others the settings.

    Raises:
        InvalidLaunchParameter: a launch parameter cannot be passed to a batch system.
        InvalidKernelSpec: a default of the schema cannot.
    """
    wanted: dict[str, object] = {
        name: parameters.values[name]
        for name in JobOptions.__struct_fields__
        if name in parameters.values
    }
    own = {name: value for name, value in msgspec.structs.asdict(kernel.job).items() if value}
    for name, value in wanted.items():
        try:
            msgspec.convert({name: value}, JobOptions, strict=False)
        except msgspec.ValidationError as error:
            if name in launch_params:
                raise InvalidLaunchParameter(
                    f"launch parameter {name!r} cannot be {value!r}: {error}"
                ) from None
            raise InvalidKernelSpec(
                f"{kernel_type}: the default of {name!r} in 'schema' cannot be {value!r}: {error}",
                path=kernel_type,
                key="schema",
            ) from None
    return msgspec.convert({**own, **wanted}, JobOptions, strict=False)
