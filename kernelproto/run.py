"""The entry points: run_kernel, start_kernel, connect_kernel and adopt_kernel."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Literal, TypeAlias, TypedDict, Unpack

import anyio
import msgspec

from kernelproto.client.client import KernelClient, open_client
from kernelproto.concurrency.service import Service
from kernelproto.exceptions import (
    DiscoveryError,
    InvalidLaunchParameter,
    KernelNotReady,
    RemoteProtocolError,
)
from kernelproto.host.launch import adopt, launch_outliving
from kernelproto.interfaces import KernelHandle
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.leftovers.running import read_connection_file
from kernelproto.launch.local import local_handle
from kernelproto.supervise import Kernel, KernelRestarter, RestartPolicy, open_kernel
from kernelproto.supervise.instance import Launched
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ConnectionInfo

_DEFAULT_TIMEOUTS = Timeouts()

Encryption: TypeAlias = Literal["auto", "required", "disabled"]

# The contents of a connection file, a path, or a pattern like "kernel-*.json".
ConnectionSource = ConnectionInfo | Mapping[str, object] | str | os.PathLike[str]


class RunOptions(TypedDict, total=False):
    """The keyword arguments of ``run_kernel``, for functions that pass them on."""

    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    launch_params: Mapping[str, object] | None
    finder: KernelFinder | None
    transport: Literal["tcp", "ipc"] | None
    encryption: Encryption
    restart: RestartPolicy | None
    timeouts: Timeouts


@asynccontextmanager
async def run_kernel(
    kernel_type: str = "pyimport/kernel",
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    launch_params: Mapping[str, object] | None = None,
    finder: KernelFinder | None = None,
    transport: Literal["tcp", "ipc"] | None = None,
    encryption: Encryption = "auto",
    restart: RestartPolicy | None = None,
    timeouts: Timeouts = _DEFAULT_TIMEOUTS,
) -> AsyncGenerator[Kernel]:
    """Run a kernel for the block: ready at the beginning, and shut down at the end.

    However you leave the block, even by an exception or cancellation, the kernel is shut down in
    order (see ``Kernel.shutdown``), and no process, file, descriptor or task is left running.
    Exceptions from the block are raised unchanged. Another task of the same event loop may leave
    the block.

    Args:
        kernel_type: ``provider/name``. A name without a slash is searched for in the provider
            ``fork`` first, then in ``spec``, then in all others. ``fork`` has ``python3`` and
            ``python`` if the kernelspec is the ipykernel of this interpreter. If no provider has
            them, these names mean ``pyimport/kernel``.
        cwd: the kernel's working directory; None means the caller's.
        env: environment variables that are added to the caller's.
        launch_params: launch parameters of the provider and the kernelspec. ``env`` and
            ``transport`` in them mean the same as the arguments.
        finder: finds the kernel type; by default among the installed providers.
        transport: "tcp" or "ipc"; None means the best transport that the kernel supports.
        encryption: "auto" encrypts tcp connections if the kernel supports encryption, "required"
            refuses kernels that do not, "disabled" does not encrypt.
        restart: whether and when a kernel that died is restarted; None means never. See
            ``KernelRestarter``.
        timeouts: the time limits for startup, interrupts and shutdown.

    Raises:
        NoSuchKernel: there is no such kernel type.
        InvalidKernelSpec: ``kernel.json`` is invalid, or names another launcher.
        InvalidLaunchParameter: a parameter has the wrong type or is unknown.
        KernelExitedEarly: the process ended before the kernel was ready, or could not be started.
        KernelNotReady: the kernel was not ready within ``timeouts.startup``.
    """
    options = RunOptions(
        cwd=cwd,
        env=env,
        launch_params=launch_params,
        finder=finder,
        transport=transport,
        encryption=encryption,
        restart=restart,
        timeouts=timeouts,
    )
    async with Service(_run(kernel_type, options), kernel_type) as kernel:
        yield kernel


async def start_kernel(
    kernel_type: str = "pyimport/kernel",
    *,
    detached: bool = False,
    host: bool | None = None,
    linger: float | None = None,
    **options: Unpack[RunOptions],
) -> Kernel:
    """Start a kernel that runs until ``await kernel.shutdown()``, or until the event loop ends.

    Use ``start_kernel`` if no block can span the kernel's lifetime; otherwise prefer
    ``run_kernel``, which has the same arguments and exceptions. The tasks that serve the kernel
    belong to the event loop, not to the caller's task.

    Args:
        kernel_type: as for ``run_kernel``.
        detached: whether the kernel outlives the event loop and the program, until
            ``kernel.shutdown()``. Another program can adopt the kernel with ``adopt_kernel``. The
            process' standard output and error are discarded unless ``launch_params["output"]``
            names a file.
        host: whether a host runs a detached kernel: a program that keeps the messages of the kernel
            while no program is connected, so that none is lost. None means if possible: on POSIX,
            for kernels with ipc sockets, such as ipykernel. True refuses the others. See
            docs/explanation/host.md.
        linger: the seconds without an owner after which the host ends the kernel; None means never.
        options: as for ``run_kernel``.

    Raises:
        InvalidLaunchParameter: no host can run the kernel, and *host* or *linger* asks for one.
    """
    if not detached and (host or linger is not None):
        raise InvalidLaunchParameter("host and linger are for detached kernels: add detached=True")
    outlives = partial(launch_outliving, host=host, linger=linger) if detached else None
    service = Service(_run(kernel_type, options, outlives), kernel_type)
    kernel = await service.start()
    kernel.on_shutdown = service.stop
    return kernel


def connect_kernel(
    connection: ConnectionSource, *, timeouts: Timeouts = _DEFAULT_TIMEOUTS
) -> AbstractAsyncContextManager[KernelClient]:
    """Connect to a kernel of another program; leaving the block never ends the kernel.

    Args:
        connection: the contents of the connection file, or a path; a name, a pattern such as
            ``"kernel-*.json"`` or a part of the name is searched for in the Jupyter runtime folder.
        timeouts: two of them apply, in seconds: ``startup``, until the kernel answers, and
            ``interrupt``.

    Raises:
        DiscoveryError: the connection file cannot be read, or the kernel's host name does not
            resolve.
        RemoteProtocolError: it is not a connection file.
        KernelNotReady: no kernel answered within ``timeouts.startup``.
    """
    return Service(_connect(connection, timeouts), "connection")


def adopt_kernel(
    connection: ConnectionSource | KernelHandle,
    *,
    finder: KernelFinder | None = None,
    timeouts: Timeouts = _DEFAULT_TIMEOUTS,
) -> AbstractAsyncContextManager[Kernel]:
    """Adopt a kernel of another program; leaving the block ends the kernel.

    The block yields a Kernel, which you can signal, wait for and restart. kernelproto must have
    started the kernel on this machine, unless you pass a handle. A kernel has one owner at a time:
    the program that started or adopted the kernel, until that program detaches from the kernel,
    ends or crashes. The exit status is unknown. A restart launches the same kernel type, without
    the launch parameters of the first launch.

    Args:
        connection: as for ``connect_kernel``; or the handle that ``Kernel.handle`` returned in
            another program, perhaps of a kernel on another machine.
        finder: finds the provider of the handle, and the kernel type for a restart; by default
            among the installed providers.
        timeouts: the time limits for startup, interrupts and shutdown.

    Raises:
        KernelInUse: a running program owns the kernel, perhaps this one.
        DiscoveryError: the connection file cannot be read, or the kernel cannot be adopted.
        RemoteProtocolError: it is not a connection file.
        KernelNotReady: the kernel did not answer within ``timeouts.startup``.
    """
    return Service(_adopt(connection, finder, timeouts), "adopted kernel")


@asynccontextmanager
async def _run(
    kernel_type: str,
    options: RunOptions,
    launch_outliving: Callable[..., Awaitable[Launched]] | None = None,
) -> AsyncGenerator[Kernel]:
    finder = options.get("finder") or KernelFinder.from_entrypoints()
    params = launch_params_of(options)
    launch_kernel: Callable[..., Awaitable[Launched]] = finder.launch
    if launch_outliving is not None:
        launch_kernel = partial(launch_outliving, finder)

    async def launch(*, env: Mapping[str, str], cwd: str | None) -> Launched:
        changed = launch_params_of({"launch_params": params, "env": env}) if env else params
        return await launch_kernel(kernel_type, cwd=cwd, launch_params=changed)

    cwd = options.get("cwd")
    timeouts = options.get("timeouts", _DEFAULT_TIMEOUTS)
    restart = options.get("restart")
    async with open_kernel(
        launch,
        timeouts=timeouts,
        cwd=None if cwd is None else os.fspath(cwd),
        outlives=launch_outliving is not None,
    ) as kernel:
        if restart is None:
            yield kernel
        else:
            async with KernelRestarter(kernel, restart):
                yield kernel


@asynccontextmanager
async def _connect(
    connection: ConnectionSource, timeouts: Timeouts
) -> AsyncGenerator[KernelClient]:
    info = _connection_info(connection)
    with anyio.move_on_after(timeouts.startup):
        await _resolve(info)
    async with open_client(info, timeouts=timeouts) as client:
        with anyio.move_on_after(timeouts.startup) as waiting:
            await client.wait_for_ready()
        if waiting.cancelled_caught:
            raise KernelNotReady(
                f"no kernel answered at {client.connection_info!r} within {timeouts.startup:g} s: "
                f"still waiting for its {client.awaited}; check that the kernel runs and that this "
                f"is its connection file ({_about_encryption(client.connection_info)})",
                phase=client.awaited,
                seconds=timeouts.startup,
            )
        yield client


@asynccontextmanager
async def _adopt(
    connection: ConnectionSource | KernelHandle, finder: KernelFinder | None, timeouts: Timeouts
) -> AsyncGenerator[Kernel]:
    handle = connection if isinstance(connection, KernelHandle) else _handle(connection)
    finder = finder or KernelFinder.from_entrypoints()
    was_adopted = False

    async def launch(*, env: Mapping[str, str], cwd: str | None) -> Launched:
        nonlocal was_adopted
        if not was_adopted:
            was_adopted = True
            return await adopt(finder, handle)
        return await finder.launch(
            handle.kernel_type, cwd=cwd, launch_params=launch_params_of({"env": env})
        )

    async with open_kernel(launch, timeouts=timeouts, kernel_id=handle.kernel_id) as kernel:
        yield kernel


def _handle(connection: ConnectionSource) -> KernelHandle:
    """Return the handle of a kernel of this machine."""
    from kernelproto.launch.adopt import find_record  # few programs need this module

    if isinstance(connection, str | os.PathLike):
        return local_handle(find_record(os.fspath(connection)))
    return local_handle(find_record(_connection_info(connection)))


def _about_encryption(info: ConnectionInfo) -> str:
    """Explain that a kernel does not answer clients without the key."""
    if info.encrypted:
        return "a kernel with another curve_publickey, or without encryption, does not answer"
    return "a kernel with encryption does not answer a client without its curve_publickey"


def launch_params_of(options: RunOptions) -> dict[str, object]:
    """Return the launch parameters, including the options that have parameters of their own.

    Raises:
        InvalidLaunchParameter: ``env`` in the launch parameters is not a mapping.
    """
    params = dict(options.get("launch_params") or {})
    transport, encryption = options.get("transport"), options.get("encryption", "auto")
    env = options.get("env")
    if transport is not None:
        params["transport"] = transport
    if encryption != "auto":
        params["encryption"] = encryption
    if env is not None:
        inner = params.get("env", {})
        if not isinstance(inner, Mapping):
            raise InvalidLaunchParameter(
                f"launch_params['env'] must be a mapping, not {type(inner).__name__}"
            )
        params["env"] = {**inner, **env}
    return params


async def _resolve(info: ConnectionInfo) -> None:
    """Check that the host name of a kernel resolves; libzmq would retry indefinitely.

    Raises:
        DiscoveryError: the host name does not resolve.
    """
    if info.transport != "tcp" or ":" in info.ip or not any(map(str.isalpha, info.ip)):
        return
    try:
        await anyio.getaddrinfo(info.ip, None)
    except (OSError, UnicodeError) as error:
        raise DiscoveryError(
            f"the kernel's host {info.ip!r} cannot be found ({error}): correct the ip in the "
            "connection file, or the name resolution of this machine"
        ) from None


def _connection_info(connection: ConnectionSource) -> ConnectionInfo:
    if isinstance(connection, ConnectionInfo):
        return connection
    if isinstance(connection, Mapping):
        fields = {
            # jupyter_client's mapping has other names, with values that JSON cannot express.
            name: _as_json(name, value)
            for name, value in connection.items()
            if name in ConnectionInfo.__struct_fields__
        }
        return ConnectionInfo.from_json(msgspec.json.encode(fields, enc_hook=repr))
    return read_connection_file(os.fspath(connection))


def _as_json(name: str, value: object) -> object:
    """Return a value of a connection file as JSON; jupyter_client has the key as bytes."""
    with suppress(UnicodeError):  # the UnicodeError would quote the value, which may be the key
        if isinstance(value, str):
            value.encode()
        return value.decode() if isinstance(value, bytes) else value
    raise RemoteProtocolError(f"not a connection file: {name!r} is not text in UTF-8")
