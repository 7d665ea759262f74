"""One kernel of jupyter_server: a KernelManager that is a handle on a Kernel of kernelproto.

jupyter_server and its extensions see the KernelManager that they know: ``connect_shell()``,
``session``, ``client()``, ``ready``, restart callbacks and traits. Methods that take part in a
launch by jupyter_client, such as ``request_shutdown()``, raise NotImplementedError.
"""

# jupyter_client types its methods as synchronous functions, which its asynchronous classes replace,
# and traitlets' types are unknown to pyright.
# mypy: disable-error-code="override"
# pyright: basic

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import in_pending_state
from jupyter_core.utils import ensure_async
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager

from kernelproto.concurrency.task_groups import start_in_event_loop
from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.jupyter.environment import changes, with_environment
from kernelproto.jupyter.kernel_types import jupyter_kernels
from kernelproto.jupyter.server.kernelspecs import KernelProtoKernelSpecManager, kernel_type_of
from kernelproto.run import Encryption, start_kernel
from kernelproto.supervise import Died, Failed, Kernel, Restarted, RestartPolicy
from kernelproto.timeouts import Timeouts

_PORTS = ("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")
_KEYS = ("curve_publickey", "curve_secretkey")

_UNSUPPORTED = (
    "kernelproto runs this kernel and does not support {}(): call shutdown_kernel(), or disable "
    "the extension (jupyter server extension disable kernelproto.jupyter.server)"
)


class _RunByKernelProto(AsyncIOLoopKernelManager):
    """The methods of a KernelManager that act on the kernel.

    ServerKernelManager calls them, and emits an event after each. A kernel of another program, from
    ``external_connection_dir``, has no Kernel here: jupyter_client's own methods serve it.
    """

    kernel: Kernel | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._spec: KernelSpec | None = None
        self._env: dict[str, str] = {}
        self._callbacks: dict[str, list[Callable[[], object]]] = {"restart": [], "dead": []}

    @property
    def kernel_spec(self) -> KernelSpec | None:
        """The kernelspec; for ``provider/name`` once the kernel was started."""
        return self._spec or super().kernel_spec

    @property
    def has_kernel(self) -> bool:
        """Whether a process runs, or is being restarted."""
        return self.kernel is not None and self.kernel.state != "dead"

    @in_pending_state
    async def start_kernel(
        self,
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        launch_params: Mapping[str, object] | None = None,
        extra_arguments: list[str] | None = None,
        transport_encryption: str | None = None,
        kernel_id: str | None = None,
        **unknown: object,
    ) -> None:
        """Start the kernel, and return when the kernel is ready.

        Args:
            cwd: the working directory.
            env: the whole environment of the kernel; None means the server's.
            launch_params: launch parameters of the kernel type.
            extra_arguments: further arguments of the command line.
            transport_encryption: "disabled", "auto" or "required".
            kernel_id: the kernel's id.
            unknown: options of jupyter_client that have no meaning here.

        Raises:
            NoSuchKernel: jupyter_client's; there is no such kernel type.
            InvalidLaunchParameter: a parameter is wrong, or has no meaning here.
            LaunchError: the kernel did not start.
        """
        self.kernel_id = kernel_id or self.kernel_id or str(uuid.uuid4())
        self._attempted_start = True  # in_pending_state makes another future for the shutdown
        if unknown:
            raise InvalidLaunchParameter(
                f"start_kernel() got {', '.join(sorted(unknown))}, which has no meaning for a "
                "kernel that kernelproto runs: leave it out"
            )
        params = dict(launch_params or {})
        if extra_arguments:
            params["extra_arguments"] = extra_arguments
        specs = self.kernel_spec_manager
        spec: KernelSpec = await ensure_async(specs.get_kernel_spec(self.kernel_name))
        self._spec = spec
        own = isinstance(specs, KernelProtoKernelSpecManager)
        finder = specs.finder if own else jupyter_kernels()
        encryption: Any = transport_encryption or self.transport_encryption
        self.kernel = await start_kernel(
            kernel_type_of(self.kernel_name, spec),
            cwd=cwd,
            env=None if env is None else changes(env),
            launch_params=params,
            finder=finder if env is None else with_environment(finder, env),
            transport="ipc" if self.transport == "ipc" else None,
            encryption=_encryption(encryption),
            restart=RestartPolicy() if self.autorestart else None,
            timeouts=Timeouts(
                startup=getattr(self.parent, "kernel_info_timeout", Timeouts().startup),
                shutdown=self.shutdown_wait_time,
            ),
        )
        self._follow(self.kernel)

    @in_pending_state
    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """End the kernel, as ``Kernel.shutdown`` does.

        Args:
            now: has no effect: running code is interrupted at once in any case, and SIGKILL follows
                within a stated time.
            restart: has no effect.
        """
        if self.kernel is not None:
            await self.kernel.shutdown()

    async def restart_kernel(
        self, now: bool = False, newports: bool = False, **options: Any
    ) -> None:
        """Restart the kernel, and return when the kernel is ready; the addresses change.

        Args:
            now: has no effect, as for shutdown_kernel().
            newports: has no effect: each process has its own ports.
            options: *env* and *cwd*, as for ``Kernel.restart``.

        Raises:
            RuntimeError: the kernel was not started.
            InvalidLaunchParameter: an option has no meaning here.
            LaunchError: the new process did not start.
        """
        unknown = options.keys() - {"env", "cwd"}
        if unknown:
            raise InvalidLaunchParameter(
                f"restart_kernel() got {', '.join(sorted(unknown))}; a restart takes env and cwd"
            )
        # in_pending_state makes a kernel unusable if the function raises: check the options before.
        kernel = self._started("restart")
        env = {**self._env, **changes(options.get("env") or {})}
        await self._restart(kernel, env, options.get("cwd"))

    @in_pending_state
    async def _restart(
        self, kernel: Kernel, env: dict[str, str], cwd: str | os.PathLike[str] | None
    ) -> None:
        await kernel.restart(env=env, cwd=cwd)
        self._load(kernel)

    async def interrupt_kernel(self) -> None:
        """Interrupt the running code.

        Raises:
            RuntimeError: the kernel was not started, or is dead.
        """
        if not self.owns_kernel:
            await super().interrupt_kernel()
        else:
            await self._started("interrupt").interrupt()

    async def signal_kernel(self, signum: int) -> None:
        """Send a signal to the process group of the kernel.

        Raises:
            RuntimeError: the kernel was not started, or is dead.
        """
        await self._started("signal").manager.signal(signum)

    async def is_alive(self) -> bool:
        """Return whether the kernel's process runs."""
        if not self.owns_kernel:
            return True
        return self.kernel is not None and await self.kernel.manager.is_alive()

    def update_env(self, *, env: Mapping[str, str]) -> None:
        """Add variables to the environment of the next process that restart_kernel() starts."""
        self._env.update(changes(env))

    def resolve_path(self, path: str) -> str | None:
        """Return the absolute path of a file that the kernel sees; None without such a file."""
        cwd = (self.kernel.cwd if self.kernel is not None else None) or os.getcwd()
        resolved = (Path(cwd) / Path(path).expanduser()).resolve()
        return resolved.as_posix() if resolved.exists() else None

    def add_restart_callback(self, callback: Callable[[], object], event: str = "restart") -> None:
        """Call a function when the kernel has died.

        Args:
            callback: called without arguments.
            event: "restart": the kernel is being restarted; "dead": the restarts have failed.
        """
        self._callbacks[event].append(callback)

    def remove_restart_callback(
        self, callback: Callable[[], object], event: str = "restart"
    ) -> None:
        """Remove a callback; an unknown callback is ignored."""
        if callback in self._callbacks[event]:
            self._callbacks[event].remove(callback)

    async def request_shutdown(self, restart: bool = False) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError(_UNSUPPORTED.format("request_shutdown"))

    async def finish_shutdown(self, *arguments: object, **options: object) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError(_UNSUPPORTED.format("finish_shutdown"))

    async def cleanup_resources(self, restart: bool = False) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError(_UNSUPPORTED.format("cleanup_resources"))

    def _started(self, action: str) -> Kernel:
        if self.kernel is None or (action != "restart" and self.kernel.state == "dead"):
            raise RuntimeError(f"Cannot {action} kernel. No kernel is running!")
        return self.kernel

    def _follow(self, kernel: Kernel) -> None:
        """Show the kernel in the traits of this object, now and after each restart."""
        kernel.kernel_id = self.kernel_id
        self._load(kernel)
        kernel.add_callback(self._note_death, Died)
        kernel.add_callback(lambda _: self._load(kernel), Restarted)
        kernel.add_callback(self._note_failure, Failed)

    def _load(self, kernel: Kernel) -> None:
        # load_connection_info() keeps ports and keys that are set.
        for name in _PORTS:
            setattr(self, name, 0)
        for name in _KEYS:
            setattr(self, name, None)
        self.load_connection_info(json.loads(kernel.connection_info.to_json()))
        self.connection_file = getattr(kernel.manager, "connection_file", "")

    def _note_death(self, death: Died) -> None:
        restarts = self.kernel is not None and self.kernel.state == "restarting"
        self.set_state("restarting" if restarts else "dead", str(death))
        if restarts:
            self._call("restart")

    async def _note_failure(self, failure: Failed) -> None:
        self.set_state("dead", f"{failure.attempts} consecutive restarts failed")
        self._call("dead")
        # The callbacks have removed the kernel from the server. A task that belongs to the kernel
        # cannot end it.
        await start_in_event_loop(self._end_dead_kernel, "kernelproto end of a dead kernel")

    async def _end_dead_kernel(self) -> None:
        try:
            if self.kernel is not None:
                await self.kernel.shutdown()
        except Exception:
            self.log.exception("kernel %s has failed, and could not be ended", self.kernel_id)

    def set_state(self, state: str, reason: str = "") -> None:
        """Set execution_state and reason, which ServerKernelManager has."""
        shown: Any = self
        shown.execution_state, shown.reason = state, reason

    def _call(self, event: str) -> None:
        for callback in list(self._callbacks[event]):
            try:
                callback()
            except Exception:
                self.log.exception("a %s callback of kernel %s has failed", event, self.kernel_id)


class KernelProtoKernelManager(ServerKernelManager, _RunByKernelProto):
    """The KernelManager of one kernel that kernelproto runs.

    Attributes:
        kernel: the kernel; None before the start, and for kernels of other programs.
    """


def _encryption(policy: str) -> Encryption:
    """Return kernelproto's word for jupyter_client's ``transport_encryption``.

    By default jupyter_client does not encrypt; kernelproto does where that matters.
    """
    return "required" if policy == "required" else "auto"
