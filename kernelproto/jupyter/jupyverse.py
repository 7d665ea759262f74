"""The plug-in ``kernelproto`` of jupyverse: ``jupyverse --disable kernel_subprocess``.

jupyverse finds the plug-in by an entry point. The plug-in starts the kernels of jupyverse with
kernelproto.
"""

# The types of fps are incomplete.
# pyright: basic

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.extras import importing
from kernelproto.jupyter.kernel_types import jupyter_kernels
from kernelproto.launch.leftovers.running import read_connection_file
from kernelproto.run import run_kernel
from kernelproto.supervise import Kernel as RunningKernel
from kernelproto.transport import open_channels
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame

with importing("jupyverse"):
    from fps import Module
    from jupyverse_kernel import DefaultKernelFactory, Kernel

logger = logging.getLogger(__name__)

# The plug-in of jupyverse that starts kernels, unless disabled by the user.
_OTHER = "kernel_subprocess"

# The channels that clients send to.
_REQUESTED: tuple[ChannelName, ...] = ("shell", "control", "stdin")


class _Queue(NamedTuple):
    """Messages for a stream of jupyverse, which holds no messages itself."""

    put: MemoryObjectSendStream[list[bytes]]
    take: MemoryObjectReceiveStream[list[bytes]]


class KernelProtoKernel(Kernel):
    """A kernel of jupyverse.

    Args:
        write_connection_file: False for a kernel of another program.
        kernelspec_path: the path of the kernelspec's kernel.json.
        connection_file: the connection file of a kernel of another program.
        kernel_cwd: the working directory.
        capture_output: has no effect: the kernel's output goes to the log.
        kernelenv_path: a file that describes an environment of micromamba; must not exist.
    """

    def __init__(
        self,
        write_connection_file: bool = True,
        kernelspec_path: str = "",
        connection_file: str = "",
        kernel_cwd: str | None = None,
        capture_output: bool = True,
        kernelenv_path: str = "",
    ) -> None:
        super().__init__()
        self.connection_file = connection_file
        self.wait_for_ready = True
        self._starts = write_connection_file
        self._name = Path(kernelspec_path).parent.name
        self._cwd = kernel_cwd or None
        self._environment = kernelenv_path
        self._kernel: RunningKernel | None = None
        self._stopped = anyio.Event()

    async def start(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run the kernel until stop() is called.

        Raises:
            InvalidLaunchParameter: an environment of micromamba is requested.
            LaunchError: the kernel does not start.
        """
        async with AsyncExitStack() as stack:
            for stream in self._streams():
                stack.enter_context(stream)
            info = await self._begin(stack)
            self.key = info.key
            # One reply per request: the clients' requests limit the queue of replies.
            queues: dict[ChannelName, _Queue] = {}
            for name in _REQUESTED:
                queues[name] = queue = _Queue(
                    *anyio.create_memory_object_stream[list[bytes]](math.inf)
                )
                stack.enter_context(queue.put)
                stack.enter_context(queue.take)

            def deliver(channel: ChannelName, frames: Sequence[Frame]) -> None:
                message = [bytes(frame) for frame in frames]
                if channel == "iopub":
                    self._from_iopub_send_stream.send_nowait(message)  # without a limit
                elif channel in queues:
                    queues[channel].put.send_nowait(message)

            tasks = await stack.enter_async_context(background_tasks())
            channels = await stack.enter_async_context(
                open_channels(info, deliver, identity=uuid.uuid4().bytes)
            )
            streams = (
                (self._to_shell_receive_stream, self._from_shell_send_stream),
                (self._to_control_receive_stream, self._from_control_send_stream),
                (self._to_stdin_receive_stream, self._from_stdin_send_stream),
            )
            for name, (requests, replies) in zip(_REQUESTED, streams, strict=True):
                tasks.start_soon(_forward, requests, partial(channels.send, name))
                tasks.start_soon(_forward, queues[name].take, replies.send)
            task_status.started()
            self.started.set()
            await self._stopped.wait()

    async def stop(self) -> None:
        """Have start() end the kernel and return."""
        self._stopped.set()

    async def interrupt(self) -> None:
        """Interrupt the running code; a kernel of another program is left alone."""
        if self._kernel is not None:
            await self._kernel.interrupt()

    def _streams(
        self,
    ) -> tuple[MemoryObjectSendStream[list[bytes]] | MemoryObjectReceiveStream[list[bytes]], ...]:
        return (
            self._to_shell_send_stream,
            self._to_shell_receive_stream,
            self._from_shell_send_stream,
            self._from_shell_receive_stream,
            self._to_control_send_stream,
            self._to_control_receive_stream,
            self._from_control_send_stream,
            self._from_control_receive_stream,
            self._to_stdin_send_stream,
            self._to_stdin_receive_stream,
            self._from_stdin_send_stream,
            self._from_stdin_receive_stream,
            self._from_iopub_send_stream,
            self._from_iopub_receive_stream,
        )

    async def _begin(self, stack: AsyncExitStack) -> ConnectionInfo:
        if not self._starts:
            return read_connection_file(self.connection_file)
        if self._environment and await anyio.Path(self._environment).exists():
            raise InvalidLaunchParameter(
                f"kernelproto does not create the micromamba environment of {self._environment}: "
                "remove kernels.kernelenv_path, and install a kernelspec of the environment"
            )
        kernel = await stack.enter_async_context(
            run_kernel(self._name, cwd=self._cwd, finder=jupyter_kernels())
        )
        self._kernel = kernel
        self.connection_file = getattr(kernel.manager, "connection_file", "")
        return kernel.connection_info


class KernelProtoModule(Module):
    """The module of jupyverse that provides the kernels."""

    async def prepare(self) -> None:
        """Provide them, unless jupyverse's own plug-in does."""
        if self.parent is not None and _OTHER in self.parent.modules:
            logger.info("kernelproto runs no kernels: start jupyverse with --disable %s", _OTHER)
        else:
            self.put(DefaultKernelFactory(KernelProtoKernel))


async def _forward(
    messages: MemoryObjectReceiveStream[list[bytes]],
    send: Callable[[list[bytes]], Awaitable[None]],
) -> None:
    async for message in messages:
        await send(message)
