"""LaunchPlan: everything that decides how a kernel is launched, made without I/O.

``plan_launch`` makes a plan from a kernelspec, the launch parameters and the facts of this machine;
``launcher.launch`` performs it. A plan holds no connection keys: each launch makes new ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Literal

import msgspec

from kernelproto.exceptions import InvalidKernelSpec, InvalidLaunchParameter
from kernelproto.launch.address.connection_file import LOOPBACK, Transport
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.process.sandbox import Sandbox, sandbox_environment
from kernelproto.launch.programs import ipykernel
from kernelproto.launch.spec.encryption import is_encrypted, supports_curve
from kernelproto.launch.spec.kernelspec import InterruptMode, KernelSpec
from kernelproto.launch.spec.parameters import (
    SYSTEM_NAMES,
    LaunchParameters,
    fill_in,
    kernel_environment,
    with_this_python,
)
from kernelproto.wire.registration import registers

Spawn = Literal["process", "fork"]

_IPYKERNEL_MODULES = {"ipykernel", "ipykernel_launcher"}

_HIDDEN = "***"
_SECRET_NAME = re.compile(r"token|secret|pass|pwd|key|credential|auth", re.IGNORECASE)


class Host(msgspec.Struct, frozen=True):
    """The facts of this machine and this program on which a plan depends.

    Args:
        python: the path of the running interpreter.
        prefix: the value of ``sys.prefix``.
        has_ipc: whether kernels can use ipc sockets here.
        has_curve: whether pyzmq was built with CurveZMQ.
    """

    python: str
    prefix: str
    has_ipc: bool
    has_curve: bool


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a kernel is launched.

    Args:
        argv: the command line; the launch fills in ``{connection_file}``, ``{kernel_id}`` and the
            names that *values* has.
        kernel_type: the kernel type, ``provider/name``.
        values: for the other names in braces in *argv* and *kernelspec_env*.
        kernelspec_env: the unchanged variables of the kernelspec; see kernel_environment().
        env: the variables of the caller, as they were given; see kernel_environment().
        unset: the variables of the launching process that the kernel does not inherit.
        inherited: the environment that these variables are added to; None means that of the
            process that performs the plan.
        cwd: the working directory; None means the caller's.
        connection_file: the path of a connection file that the caller has written, and removes
            after the kernel's end. The launch uses the addresses and keys of this file, and
            *transport*, *ip*, *encrypted* and *registers* have no effect. None makes a new file.
        transport: ``"tcp"`` or ``"ipc"``.
        ip: the IPv4 address that the kernel binds; without meaning for ipc.
        encrypted: whether the launch makes CurveZMQ keys for the kernel.
        registers: whether the kernel chooses and registers tcp ports (JEP 66). The launch then
            returns once the kernel has registered.
        interrupt_mode: ``"signal"`` or ``"message"``.
        limits: the limits of each process of the kernel.
        sandbox: how the kernel is kept apart from this machine; None means no sandbox.
        detached: whether the kernel outlives this program.
        listed_as: the id under which other programs find the kernel; "" for that of the launch.
        output: where standard output and standard error go, in addition to the tail that is kept: a
            callable that takes bytes and is called in a thread, a descriptor or an open file, or a
            path. A detached kernel has no other tail than that of the file at this path, and cannot
            have a callable.
        spawn: ``"process"`` starts a program; ``"fork"`` forks an interpreter that has loaded
            ipykernel.
        preload: further modules that this interpreter has loaded.
        secrets: the names of the *values* that describe() hides.
    """

    argv: tuple[str, ...]
    kernel_type: str = ""
    values: Mapping[str, str] = {}
    kernelspec_env: Mapping[str, str] = {}
    env: Mapping[str, str] = {}
    unset: tuple[str, ...] = ()
    inherited: Mapping[str, str] | None = None
    cwd: str | None = None
    connection_file: str | None = None
    transport: Transport = "tcp"
    ip: str = LOOPBACK
    encrypted: bool = False
    registers: bool = False
    interrupt_mode: InterruptMode = "signal"
    limits: Limits | None = None
    sandbox: Sandbox | None = None
    detached: bool = False
    listed_as: str = ""
    output: object = None
    spawn: Spawn = "process"
    preload: tuple[str, ...] = ()
    secrets: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        # Without the variables and values: logs and tracebacks would show passwords.
        return f"<LaunchPlan for {self.kernel_type or self.argv[0]!r}>"

    def command(self, *, connection_file: str, kernel_id: str) -> list[str]:
        """Return the command line with every name in braces filled in."""
        names = {**self.values, "connection_file": connection_file, "kernel_id": kernel_id}
        return fill_in(self.argv, names)

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the kernel's whole environment, without the variables that each launch adds.

        A sandboxed kernel inherits only the variables that hold no secrets, such as PATH.

        Args:
            inherited: the environment of the launching process, unless the plan has another one.
        """
        values = {name: value for name, value in self.values.items() if name not in SYSTEM_NAMES}
        if self.inherited is not None:
            inherited = self.inherited
        kept = {name: value for name, value in inherited.items() if name not in self.unset}
        variables = kernel_environment(self.kernelspec_env, self.env, values, inherited=kept)
        if self.sandbox is None:
            return variables
        return sandbox_environment(variables, given=[*self.kernelspec_env, *self.env])

    def describe(self) -> dict[str, Any]:
        """Return the plan for people to read, in types that JSON has.

        Variables are shown as they were written, before others are filled in, and without those
        that the kernel inherits. ``***`` replaces values that the kernelspec's schema marks
        as secret, or with a name like token, password or key.
        """
        values = {name: self._shown(name, value) for name, value in self.values.items()}
        filled = {name: value for name, value in values.items() if value != _HIDDEN}
        variables = {**self.kernelspec_env, **self.env}
        return {
            "kernel_type": self.kernel_type,
            "provider": self.kernel_type.partition("/")[0],
            "argv": fill_in(self.argv, filled),
            "values": {name: values[name] for name in values if name not in SYSTEM_NAMES},
            "env": {name: self._shown(name, value) for name, value in variables.items()},
            "unset": list(self.unset),
            "cwd": self.cwd,
            "transport": self.transport,
            "ip": self.ip if self.transport == "tcp" else None,
            "encrypted": self.encrypted,
            "registers": self.registers,
            "interrupt_mode": self.interrupt_mode,
            "limits": None if self.limits is None else msgspec.to_builtins(self.limits),
            "sandbox": None if self.sandbox is None else msgspec.to_builtins(self.sandbox),
            "detached": self.detached,
            "output": _describe_output(self.output),
            "spawn": self.spawn,
            "preload": list(self.preload),
        }

    def _shown(self, name: str, value: str) -> str:
        return _HIDDEN if name in self.secrets or _SECRET_NAME.search(name) else value


def plan_launch(
    provider_id: str,
    kernelspec: KernelSpec,
    host: Host,
    *,
    cwd: str | None = None,
    launch_params: Mapping[str, object] | None = None,
    spawn: Spawn = "process",
    preload: Sequence[str] = (),
) -> LaunchPlan:
    """Plan the launch of the kernel that a kernelspec describes.

    Args:
        provider_id: the id of the provider of the kernel type.
        kernelspec: the description.
        host: the facts of this machine.
        cwd: the kernel's working directory; None means the caller's.
        launch_params: see LaunchParameters.
        spawn: see LaunchPlan.
        preload: see LaunchPlan.

    Raises:
        InvalidKernelSpec: the kernelspec cannot be used.
        InvalidLaunchParameter: a parameter is missing, not allowed or unknown, the kernel has to be
            encrypted and cannot be, or cannot be reached in the sandbox.
    """
    fault = kernelspec.launch_fault()
    if fault is not None:
        raise fault
    schema = kernelspec.parameter_schema()
    parameters = LaunchParameters.check(
        launch_params, argv=kernelspec.argv, env=kernelspec.env, schema=schema
    )
    argv = (*with_this_python(kernelspec.argv, host.python), *parameters.extra_arguments)
    if not any("{connection_file}" in argument for argument in argv):
        raise InvalidKernelSpec(
            f"{kernelspec.path}: 'argv' has no '{{connection_file}}', without which the kernel "
            "cannot know where to listen: add it where the kernel takes that file, or in "
            "extra_arguments",
            path=kernelspec.path,
            key="argv",
        )
    transport, ip = _address(parameters, kernelspec.argv, host)
    if parameters.sandbox is not None:
        parameters.sandbox.check(transport, parameters.limits)
    values = {**parameters.values, "prefix": host.prefix, "resource_dir": kernelspec.resource_dir}
    return LaunchPlan(
        argv=argv,
        kernel_type=f"{provider_id}/{kernelspec.name}",
        values=values,
        kernelspec_env=kernelspec.env,
        env=parameters.env,
        cwd=cwd,
        transport=transport,
        ip=ip,
        encrypted=is_encrypted(
            parameters.encryption,
            transport=transport,
            ip=ip,
            kernel_can=supports_curve(kernelspec.metadata),
            we_can=host.has_curve,
        ),
        registers=registers(kernelspec.kernel_protocol_version),
        interrupt_mode=kernelspec.interrupt_mode,
        limits=parameters.limits,
        sandbox=parameters.sandbox,
        detached=parameters.detached,
        listed_as=parameters.listed_as,
        output=parameters.output,
        spawn=spawn,
        preload=tuple(preload),
        secrets=frozenset(filter(schema.is_secret, parameters.values)) if schema else frozenset(),
    )


def _address(
    parameters: LaunchParameters, argv: Sequence[str], host: Host
) -> tuple[Transport, str]:
    """Return the transport and the address to bind: loopback, unless another is asked for."""
    if parameters.ip is None:
        return parameters.transport or _default_transport(argv, host), LOOPBACK
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


def _default_transport(argv: Sequence[str], host: Host) -> Transport:
    """Return ipc if the kernel is known to support ipc.

    With ipc no other program can take a port, and no other user can connect.
    """
    program, *arguments = argv
    # Only for a Python of this machine: a kernel in ssh or docker does not see our sockets.
    runs_ipykernel = ipykernel.__file__ in arguments or any(
        option == "-m" and module in _IPYKERNEL_MODULES for option, module in pairwise(arguments)
    )
    is_python = PurePath(program).name.startswith("python")
    return "ipc" if is_python and runs_ipykernel and host.has_ipc else "tcp"


def _describe_output(output: object) -> str | int | None:
    if output is None or isinstance(output, str | int):
        return output
    return "a callable" if callable(output) else "an open file"
