"""The front door: run_kernel, start_kernel and connect_kernel."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Literal, TypedDict, Unpack

import anyio
import msgspec

from kernelproto.background import start_in_event_loop
from kernelproto.client.client import KernelClient, open_client
from kernelproto.client.waiter import Waiter
from kernelproto.exceptions import InvalidLaunchParameter, KernelNotReady
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.running import read_connection_file
from kernelproto.supervise.kernel import Kernel, open_kernel
from kernelproto.supervise.to_the_end import to_the_end
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

_DEFAULT_TIMEOUTS = Timeouts()


# A connection file's contents, its path, or a pattern like "kernel-*.json".
ConnectionSource = ConnectionInfo | Mapping[str, object] | str | os.PathLike[str]


class RunOptions(TypedDict, total=False):
    """The keyword arguments of ``run_kernel``, for functions that hand them on."""

    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    launch_params: Mapping[str, object] | None
    finder: KernelFinder | None
    transport: Literal["tcp", "ipc"] | None
    timeouts: Timeouts


@asynccontextmanager
async def run_kernel(
    name: str = "pyimport/kernel",
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    launch_params: Mapping[str, object] | None = None,
    finder: KernelFinder | None = None,
    transport: Literal["tcp", "ipc"] | None = None,
    timeouts: Timeouts = _DEFAULT_TIMEOUTS,
) -> AsyncGenerator[Kernel]:
    """Run a kernel for the block: ready when it begins, gone without a trace when it ends.

    However the block is left, by its end, an exception or cancellation, the kernel is shut down in
    order (see ``Kernel.shutdown``), and no process, file, descriptor or task is left behind.
    Exceptions from the block arrive as themselves.

    Args:
        name: the kernel type, ``provider/name``; without a slash it is ``spec/NAME``, or else that
            of any provider that has it.
        cwd: the kernel's working directory; None means the caller's.
        env: environment variables that are added to the caller's.
        launch_params: what the provider and the kernelspec offer; ``env`` and ``transport`` in here
            are the same as the arguments.
        finder: where kernel types are looked for; the installed providers by default.
        transport: "tcp" or "ipc"; None means the best that the kernel is known to support.
        timeouts: the phases of the kernel's life, in seconds.

    Raises:
        NoSuchKernel: there is no such kernel type.
        InvalidLaunchParameter: a parameter has the wrong type or is unknown.
        KernelExitedEarly: the kernel's process ended before it was ready, or could not be started.
        KernelNotReady: it was not ready within ``timeouts.startup``.
    """
    deadline = anyio.current_time() + timeouts.startup
    params = _launch_params(launch_params, env, transport)
    launched = None
    with anyio.CancelScope(deadline=deadline):
        launched = await (finder or KernelFinder.from_entrypoints()).launch(
            name, cwd=None if cwd is None else os.fspath(cwd), launch_params=params
        )
    if launched is None:
        raise KernelNotReady(
            f"launching {name!r} took longer than {timeouts.startup:g} s",
            phase="launch",
            seconds=timeouts.startup,
        )
    info, manager = launched
    async with open_kernel(info, manager, timeouts=timeouts, deadline=deadline) as kernel:
        yield kernel


async def start_kernel(name: str = "pyimport/kernel", **options: Unpack[RunOptions]) -> Kernel:
    """Start a kernel that lives until ``await kernel.shutdown()``, or until the event loop ends.

    For callers that keep the kernel's lifetime in their own hands; everybody else is better off
    with ``run_kernel``, whose arguments and exceptions these are. The tasks that serve the kernel
    belong to the event loop, not to the caller's task.
    """
    started = Waiter[Kernel]()
    ended = anyio.Event()
    service = anyio.CancelScope()

    async def stop() -> None:
        service.cancel()
        await to_the_end(ended.wait)  # bounded, because the shutdown that is waited for is

    async def serve() -> None:
        try:
            with service:
                async with run_kernel(name, **options) as kernel:
                    kernel.on_shutdown = stop
                    started.set(kernel)
                    await anyio.sleep_forever()
        except Exception as error:
            if started.is_set:
                logger.error("the kernel %r that was started has failed", name, exc_info=True)
            started.fail(error)
        finally:
            ended.set()

    try:
        await start_in_event_loop(serve, name=f"kernelproto {name}")
        return await started.wait()
    except Exception:
        raise  # there is no service: it could not begin, or has ended with this
    except BaseException:
        await stop()
        raise


@asynccontextmanager
async def connect_kernel(
    connection: ConnectionSource,
    *,
    timeouts: Timeouts = _DEFAULT_TIMEOUTS,
) -> AsyncGenerator[KernelClient]:
    """Connect to a kernel that somebody else has started; leaving the block never ends it.

    Args:
        connection: the contents of the connection file, or its path; a name, a pattern such as
            ``"kernel-*.json"`` or a part of the name is looked for in the Jupyter runtime folder.
        timeouts: only ``startup`` matters here: until the kernel answers, in seconds.

    Raises:
        DiscoveryError: the connection file cannot be read.
        RemoteProtocolError: it is no connection file.
        KernelNotReady: no kernel answered within ``timeouts.startup``.
    """
    async with open_client(_connection_info(connection)) as client:
        with anyio.move_on_after(timeouts.startup) as waiting:
            await client.wait_for_ready()
        if waiting.cancelled_caught:
            raise KernelNotReady(
                f"no kernel answered at {client.connection_info!r} within {timeouts.startup:g} s: "
                f"still waiting for its {client.awaited}; see that it runs and that the connection "
                "file is its own",
                phase=client.awaited,
                seconds=timeouts.startup,
            )
        yield client


def _launch_params(
    launch_params: Mapping[str, object] | None,
    env: Mapping[str, str] | None,
    transport: str | None,
) -> dict[str, object]:
    params = dict(launch_params or {})
    if transport is not None:
        params["transport"] = transport
    if env is not None:
        inner = params.get("env", {})
        if not isinstance(inner, Mapping):
            raise InvalidLaunchParameter(
                f"launch_params['env'] must be a mapping, not {type(inner).__name__}"
            )
        params["env"] = {**inner, **env}
    return params


def _connection_info(connection: ConnectionSource) -> ConnectionInfo:
    if isinstance(connection, ConnectionInfo):
        return connection
    if isinstance(connection, Mapping):
        fields = {
            # jupyter_client has the key as bytes, and more than JSON can say under other names.
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in connection.items()
            if name in ConnectionInfo.__struct_fields__
        }
        return ConnectionInfo.from_json(msgspec.json.encode(fields, enc_hook=repr))
    return read_connection_file(os.fspath(connection))
