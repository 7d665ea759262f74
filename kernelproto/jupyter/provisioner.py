"""A kernel provisioner of jupyter_client that launches with kernelproto.

jupyter_client finds the provisioner by the entry point ``kernelproto``. The provisioner runs in
several event loops: jupyter_client has one for each thread of synchronous code.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool, Dict, List, Unicode

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.jupyter.environment import changes
from kernelproto.jupyter.kernel_types import with_own_ipykernel
from kernelproto.jupyter.sandboxed import PrivateSockets
from kernelproto.launch import LaunchPlan, launch
from kernelproto.launch.local import LocalKernelManager
from kernelproto.launch.spec.parameters import LaunchParameters, literal

# The options of subprocess.Popen that jupyter_client's own provisioner passes on, as far as they
# have a meaning here.
_OPTIONS = {"env", "cwd", "stdin", "stdout", "stderr", "independent"}

# Meant for jupyter_client's own provisioner, which ignores them as well.
_IGNORED = {"extra_arguments", "kernel_id"}

_STANDARD_ERROR = 2


class KernelProtoProvisioner(LocalProvisioner):
    """Launches the kernels of jupyter_client with kernelproto.

    jupyter_client chooses the command, the environment, the addresses and the keys. An ipykernel of
    the running Python is forked, and keeps more unsent outputs. Every kernel ends completely with
    its program.

    The output of the kernel's process goes to the program's standard error, or to *stdout* or
    *stderr* if start_kernel() gets one of them. With PIPE or DEVNULL the output is kept for
    output_tail() only. The process reads an empty standard input.

    Attributes:
        pid: the number of the kernel's process.
        pgid: the number of the process group.
    """

    fork = Bool(
        True,
        config=True,
        help="Fork the ipykernel of the running Python, on systems that can fork.",
    )
    preload = List(
        Unicode(),
        config=True,
        help="Modules that the fork server loads in advance, such as ['numpy', 'pandas'].",
    )
    limits = Dict(
        config=True,
        help="Limits of each process of a kernel: memory (bytes), cpu_seconds, open_files, "
        "processes.",
    )
    sandbox = Dict(
        default_value=None,
        allow_none=True,
        config=True,
        help="Settings of a sandbox for each kernel; {} is the strictest, None means no sandbox. "
        "Without the network of the machine, the kernel has to support ipc sockets.",
    )

    def __init__(self, **options: Any) -> None:
        unknown = options.keys() - self.trait_names()
        if unknown:
            raise InvalidLaunchParameter(
                f"metadata.kernel_provisioner.config: {', '.join(sorted(unknown))} has no meaning "
                "for the provisioner kernelproto; it takes fork, preload, limits and sandbox"
            )
        super().__init__(**options)
        self._manager: LocalKernelManager | None = None
        self._sockets: PrivateSockets | None = None

    @property
    def has_process(self) -> bool:
        """Whether a kernel was launched and no call has waited for its end."""
        return self._manager is not None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare the launch as jupyter_client does; a sandboxed kernel gets sockets of its own.

        Raises:
            InvalidLaunchParameter: a setting of the sandbox is not valid.
            LaunchError: the folder of the sockets cannot be made.
        """
        sandbox = self._parameters(()).sandbox
        if sandbox is not None and (sandbox.network != "full" or self._transport() == "ipc"):
            parent: Any = self.parent
            self._sockets = self._sockets or PrivateSockets(parent)
            self._sockets.make_folder()
        return await super().pre_launch(**kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Launch the kernel on the connection file of the KernelManager.

        Args:
            cmd: the command line.
            kwargs: the options of start_kernel(): env, cwd, stdout, stderr, independent.

        Raises:
            InvalidLaunchParameter: an option has no meaning here, or a limit cannot be set.
            LaunchError: the kernel cannot be started.
        """
        unknown = kwargs.keys() - _OPTIONS - _IGNORED
        if unknown:
            raise InvalidLaunchParameter(
                f"start_kernel() got {', '.join(sorted(unknown))}, which has no meaning for the "
                "provisioner kernelproto: leave it out, or use the provisioner local-provisioner"
            )
        with ExitStack() as undo:
            if self._sockets is not None:
                undo.callback(self._sockets.remove)
                self._sockets.write()
            _, manager = await launch(self._plan(cmd, **kwargs))
            undo.pop_all()
        self._manager = manager
        self.pid = self.pgid = manager.pid
        self.cwd = kwargs.get("cwd") or os.getcwd()
        return self.connection_info

    async def poll(self) -> int | None:
        """Return None while the kernel's process runs, then the exit status; 0 if unknown."""
        if self._manager is None:
            return 0
        return None if await self._manager.is_alive() else self._manager.returncode or 0

    async def wait(self) -> int | None:
        """Wait until the kernel's process has ended, and return the exit status.

        Then nothing is left of the launch, and has_process is false.
        """
        manager = self._manager
        if manager is None:
            return 0
        returncode = await manager.wait()
        await self._clean_up(manager)
        return returncode

    @property
    def local_manager(self) -> LocalKernelManager | None:
        """The handle on the kernel's process; None once wait() or cleanup() has returned."""
        return self._manager

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the process group of the kernel."""
        if self._manager is None:
            return
        if signum == signal.SIGINT and self.kernel_spec.interrupt_mode == "signal":
            await self._manager.interrupt()
        else:
            await self._manager.signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """End the process group of the kernel (SIGKILL)."""
        if self._manager is not None:
            await self._manager.kill()

    async def terminate(self, restart: bool = False) -> None:
        """Ask the process group of the kernel to end (SIGTERM)."""
        if self._manager is not None:
            await self._manager.terminate()

    async def cleanup(self, restart: bool = False) -> None:
        """End all remaining processes of the kernel, and return the ports to jupyter_client."""
        if self._manager is not None:
            await self._clean_up(self._manager)
        if self._sockets is not None:
            self._sockets.remove()
        await super().cleanup(restart=restart)

    def output_tail(self) -> str:
        """Return the last 64 KiB that the kernel's process has written; "" without a kernel."""
        return "" if self._manager is None else self._manager.output_tail()

    def _transport(self) -> str:
        parent: Any = self.parent
        return str(parent.transport)

    def _given(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of the kernelspec and of the caller; a sandbox inherits few others.

        Args:
            env: the whole environment, in which jupyter_client has put them.
        """
        of_kernelspec = {name: literal(env[name]) for name in self.kernel_spec.env if name in env}
        return changes(env) | of_kernelspec

    def _parameters(self, command: Sequence[str]) -> LaunchParameters:
        """Return the options as launch parameters.

        Raises:
            InvalidLaunchParameter: a setting is not valid.
        """
        given = {"limits": self.limits or None, "sandbox": self.sandbox}
        params = {name: value for name, value in given.items() if value is not None}
        return LaunchParameters.check(params, argv=command)

    async def _clean_up(self, manager: LocalKernelManager) -> None:
        await manager.cleanup()
        if self._manager is manager:
            self._manager = None

    def _plan(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] | None = None,
        stdin: object = None,
        stdout: object = None,
        stderr: object = None,
        independent: bool = False,
        **_: object,
    ) -> LaunchPlan:
        if stdin not in (None, subprocess.PIPE, subprocess.DEVNULL):
            raise InvalidLaunchParameter(
                "the provisioner kernelproto gives a kernel an empty standard input: leave out "
                "stdin, or use the provisioner local-provisioner"
            )
        parent: Any = self.parent
        parameters = self._parameters(command)
        if parameters.sandbox is not None:
            parameters.sandbox.check(self._transport(), parameters.limits)
        file = self._sockets.connection_file if self._sockets else parent.connection_file
        plan = LaunchPlan(
            argv=tuple(part.replace(parent.connection_file, file) for part in command),
            kernel_type=f"spec/{parent.kernel_name}",
            env={} if parameters.sandbox is None else self._given(env),
            inherited=env,
            cwd=None if cwd is None else os.fspath(cwd),
            connection_file=file,
            interrupt_mode=self.kernel_spec.interrupt_mode,
            limits=parameters.limits,
            sandbox=parameters.sandbox,
            detached=independent,
            output=_output(stdout, stderr),
        )
        return with_own_ipykernel(plan, fork=self.fork, preload=self.preload)


def _output(stdout: object, stderr: object) -> object:
    """Return the target of the output of the kernel's process; None only keeps the tail.

    Raises:
        InvalidLaunchParameter: standard output and standard error should go to two places.
    """
    given = [
        None if target in (subprocess.PIPE, subprocess.DEVNULL) else target
        for target in (stdout, stderr)
        if target not in (None, subprocess.STDOUT)
    ]
    if not given:
        return _STANDARD_ERROR if _is_open(_STANDARD_ERROR) else None
    if any(target != given[0] for target in given):
        raise InvalidLaunchParameter(
            "the provisioner kernelproto writes standard output and standard error of a kernel to "
            "the same place: pass stdout only"
        )
    return given[0]


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
