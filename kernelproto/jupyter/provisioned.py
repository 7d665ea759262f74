"""ProvisionedProvider: kernelspecs that name a kernel provisioner of jupyter_client.

Packages such as gateway_provisioners bring provisioners that start kernels in containers, on
Kubernetes, YARN or other hosts. A provisioner works for jupyter_client's KernelManager only, so
each kernel here has such a manager. Provisioners run on asyncio only.

jupyter_client is imported at the first launch: every finder makes this provider.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from kernelproto.concurrency.process_owner import Owner
from kernelproto.concurrency.shield import to_the_end
from kernelproto.exceptions import (
    InvalidKernelSpec,
    InvalidLaunchParameter,
    LaunchError,
)
from kernelproto.extras import fault
from kernelproto.interfaces import KernelAttributes, KernelManager
from kernelproto.launch.address.paths import connection_file_name, runtime_folder
from kernelproto.launch.signalling import require_signals
from kernelproto.launch.spec.kernelspec import (
    KernelSpec,
    find_kernelspecs,
    read_kernelspec,
)
from kernelproto.launch.spec.naming import no_such_kernel
from kernelproto.launch.spec.parameters import LaunchParameters, kernel_environment
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ConnectionInfo

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

# A provisioner can only be polled. Some ask another host each time.
_POLL_SECONDS = 0.25

_CLEANUP_SECONDS = Timeouts().kill

_PARAMETERS = "env, extra_arguments, transport, ip and encryption"


class ProvisionedProvider:
    """Finds ``provisioned/NAME``: kernelspecs with ``metadata.kernel_provisioner``.

    jupyter_client's provisioner of this name starts the kernel, on asyncio only. On Trio, and
    without the extra ``jupyter``, these kernel types are listed as unavailable.
    """

    id = "provisioned"

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the kernelspecs that name another provisioner than those of this machine."""
        reason = fault("jupyter") or (None if _runs_on_asyncio() else _needs_asyncio())
        for name, folder in sorted(find_kernelspecs().items()):
            with suppress(InvalidKernelSpec):  # KernelSpecProvider has logged this
                kernelspec = read_kernelspec(name, folder)
                if names_provisioner(kernelspec):
                    attributes = kernelspec.attributes()
                    attributes.pop("unavailable", None)
                    if reason is not None:
                        attributes["unavailable"] = reason
                    yield name, attributes

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Have the provisioner start the kernel, which need not be ready on return.

        Args:
            name: the name of the kernelspec, in any case.
            cwd: the kernel's working directory; the provisioner may ignore it.
            launch_params: ``env``, ``extra_arguments``, ``transport``, ``ip`` and ``encryption``.

        Raises:
            NoSuchKernel: the kernelspec does not exist, or names no provisioner.
            InvalidKernelSpec: the kernelspec cannot be used.
            InvalidLaunchParameter: a parameter has the wrong type, or no meaning here.
            LaunchError: the provisioner is not installed or cannot start the kernel, this is not
                asyncio, or the extra ``jupyter`` is missing.
        """
        kernelspec = _find(name)
        parameters = _checked(kernelspec, launch_params)
        if (reason := fault("jupyter")) is not None:
            raise LaunchError(reason)
        if not _runs_on_asyncio():
            raise LaunchError(_needs_asyncio())
        manager: Any = _new_manager(kernelspec, parameters)
        kernel = ProvisionedManager(manager)
        try:
            await manager.start_kernel(
                env=kernel_environment({}, parameters.env),
                extra_arguments=list(parameters.extra_arguments),
                **({} if cwd is None else {"cwd": cwd}),
            )
            return _connection_info(manager), kernel
        except BaseException as error:
            await kernel.cleanup()
            if isinstance(error, Exception):
                raise LaunchError(_reason(kernelspec, error)) from error
            raise


class ProvisionedManager:
    """The handle on a kernel that a provisioner of jupyter_client has started.

    Implements KernelManager. The end of the kernel is noticed within 0.25 s.

    Args:
        manager: the KernelManager with the provisioner.

    Attributes:
        kernel_id: a UUID.
    """

    def __init__(self, manager: AsyncKernelManager) -> None:
        self._manager: Any = manager
        self.kernel_id: str = self._manager.kernel_id
        self._owner = Owner()
        self._returncode: int | None = None
        self._has_ended = False
        self._cleaning = anyio.Lock()
        self._is_clean = False

    async def is_alive(self) -> bool:
        """Return whether the provisioner says that the kernel runs."""
        self._owner.check("kernel")
        provisioner = self._provisioner
        if not self._has_ended and provisioner is not None and provisioner.has_process:
            returncode = await provisioner.poll()
            if returncode is None:
                return True
            self._returncode = returncode
        self._has_ended = True
        return False

    async def wait(self) -> int | None:
        """Wait until the kernel has ended; return the exit status that the provisioner has."""
        while await self.is_alive():  # noqa: ASYNC110 (a provisioner has no event to wait for)
            await anyio.sleep(_POLL_SECONDS)
        return self._returncode

    async def signal(self, signum: int) -> None:
        """Have the provisioner send a signal; if the kernel is dead, do nothing."""
        if await self.is_alive():
            await self._provisioner.send_signal(signum)

    async def interrupt(self) -> None:
        """Have the provisioner send SIGINT.

        Raises:
            UnsupportedRequest: this kernel is interrupted by a message, not by a signal.
        """
        require_signals(self._manager.kernel_spec.interrupt_mode)
        await self.signal(signal.SIGINT)

    async def terminate(self) -> None:
        """Have the provisioner ask the kernel to end."""
        if await self.is_alive():
            await self._provisioner.terminate()

    async def kill(self) -> None:
        """Have the provisioner end the kernel."""
        if await self.is_alive():
            await self._provisioner.kill()

    async def cleanup(self) -> None:
        """End the kernel, and remove the files of the provisioner and of jupyter_client.

        ``cleanup`` takes at most 5 seconds, cannot be cancelled, and may be called again.
        """
        if self._owner.is_here:
            await to_the_end(self._clean_up)

    async def _clean_up(self) -> None:
        async with self._cleaning:
            if self._is_clean:
                return
            self._is_clean = True
            try:
                with anyio.move_on_after(_CLEANUP_SECONDS):
                    await self.kill()
                    if self._provisioner is not None:
                        returncode = await self._provisioner.wait()  # reaps the process
                        self._returncode = self._returncode or returncode
            finally:
                self._has_ended = True
                await self._manager.cleanup_resources()

    @property
    def _provisioner(self) -> Any:
        return self._manager.provisioner


def _find(name: str) -> KernelSpec:
    """Read a kernelspec that names a provisioner.

    Raises:
        NoSuchKernel: there is none of this name.
        InvalidKernelSpec: the kernelspec cannot be used.
    """
    folders = find_kernelspecs()
    folder = folders.get(name.lower())
    if folder is None:
        raise no_such_kernel(
            name, folders, remedy="install its kernelspec, or add its folder to JUPYTER_PATH"
        )
    kernelspec = read_kernelspec(name.lower(), folder)
    if not names_provisioner(kernelspec):
        raise no_such_kernel(name, [], remedy=f"use spec/{name}: it names no provisioner")
    return kernelspec


def names_provisioner(kernelspec: KernelSpec) -> bool:
    """Return whether only a provisioner of jupyter_client can start the kernel."""
    reason = kernelspec.launch_fault()
    stanza = kernelspec.metadata.get("kernel_provisioner")
    return (
        reason is not None
        and reason.key == "metadata.kernel_provisioner"
        and isinstance(stanza, Mapping)
        and "provisioner_name" in stanza
    )


def _checked(
    kernelspec: KernelSpec, launch_params: Mapping[str, object] | None
) -> LaunchParameters:
    """Return the launch parameters.

    Raises:
        InvalidLaunchParameter: one has the wrong type, or no meaning for a provisioner.
    """
    parameters = LaunchParameters.check(
        launch_params,
        argv=kernelspec.argv,
        env=kernelspec.env,
        schema=kernelspec.parameter_schema(),
    )
    known = LaunchParameters(
        env=parameters.env,
        extra_arguments=parameters.extra_arguments,
        transport=parameters.transport,
        ip=parameters.ip,
        encryption=parameters.encryption,
    )
    if parameters.detached:
        raise InvalidLaunchParameter(
            "a kernel that a provisioner of jupyter_client starts ends with this program: start "
            "the kernel without 'detached', in a pool without a registry, or in a server with "
            'keep_kernels = "off"'
        )
    for name in parameters.__struct_fields__:
        if getattr(parameters, name) != getattr(known, name):
            raise InvalidLaunchParameter(
                f"launch parameter {name!r} has no effect on a kernel that a provisioner of "
                f"jupyter_client starts; it takes {_PARAMETERS}"
            )
    return parameters


def _new_manager(kernelspec: KernelSpec, parameters: LaunchParameters) -> AsyncKernelManager:
    from jupyter_client.manager import AsyncKernelManager

    options: dict[str, Any] = {}
    if parameters.transport is not None:
        options["transport"] = parameters.transport
    if parameters.ip is not None:
        options["ip"] = parameters.ip
    if "transport_encryption" in AsyncKernelManager.class_trait_names():
        options["transport_encryption"] = parameters.encryption
    elif parameters.encryption == "required":
        raise InvalidLaunchParameter(
            "launch parameter 'encryption' cannot be 'required' with this version of "
            "jupyter_client: install a later one"
        )
    kernel_id = str(uuid.uuid4())
    manager = AsyncKernelManager(
        kernel_name=kernelspec.name,
        connection_file=os.path.join(runtime_folder(), connection_file_name(kernel_id)),
        **options,
    )
    manager.kernel_id = kernel_id
    return manager


def _reason(kernelspec: KernelSpec, error: Exception) -> str:
    """Return why the provisioner cannot start a kernel."""
    from jupyter_client.kernelspec import NoSuchKernel

    name = kernelspec.metadata["kernel_provisioner"]["provisioner_name"]
    if isinstance(error, NoSuchKernel):  # jupyter_client looks for the provisioner first
        error_text = "it is not installed; install the package that brings it"
    else:
        error_text = str(error)
    return (
        f"the provisioner {name!r} of the kernelspec {kernelspec.name!r} cannot start a kernel: "
        f"{error_text}"
    )


def _connection_info(manager: AsyncKernelManager) -> ConnectionInfo:
    """Return the addresses that the provisioner has reported.

    Raises:
        RemoteProtocolError: they are not those of a kernel.
    """
    entries = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in manager.get_connection_info().items()
    }
    return ConnectionInfo.from_json(msgspec.json.encode(entries))


def _runs_on_asyncio() -> bool:
    """Return whether the calling task runs on asyncio."""
    import asyncio

    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def _needs_asyncio() -> str:
    return (
        "a kernel provisioner of jupyter_client runs on asyncio only: start this kernel type in a "
        "program on asyncio"
    )
