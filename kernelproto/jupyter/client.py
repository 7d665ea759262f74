"""The classes of jupyter_client, with kernels that kernelproto launches: change the import only.

``from kernelproto.jupyter.client import KernelManager`` replaces ``from jupyter_client import
KernelManager``, and so on. These are subclasses, with all methods and traits. They differ in this:

- The provisioner ``kernelproto`` starts every kernel, unless the kernelspec names another one.
- Calls that wait for a message raise DeadKernel when the kernel's process ends: in asynchronous
  code at once, in synchronous code within 0.1 s. Messages from before the end of the kernel are
  delivered first. jupyter_client waits until its timeout, or indefinitely.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from queue import Empty
from typing import Any, cast

from kernelproto.concurrency.shield import to_the_end
from kernelproto.extras import importing

with importing("jupyter"):
    from jupyter_client.asynchronous.client import AsyncKernelClient as _AsyncKernelClient
    from jupyter_client.blocking.client import BlockingKernelClient as _BlockingKernelClient
    from jupyter_client.channels import AsyncZMQSocketChannel, ZMQSocketChannel
    from jupyter_client.client import KernelClient
    from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager as _AsyncIOLoopKernelManager
    from jupyter_client.ioloop.manager import IOLoopKernelManager as _IOLoopKernelManager
    from jupyter_client.manager import AsyncKernelManager as _AsyncKernelManager
    from jupyter_client.manager import KernelManager as _KernelManager
    from jupyter_client.multikernelmanager import (
        AsyncMultiKernelManager as _AsyncMultiKernelManager,
    )
    from jupyter_client.multikernelmanager import MultiKernelManager as _MultiKernelManager
    from jupyter_core.utils import run_sync
    from traitlets import DottedObjectName, Type

    from kernelproto.jupyter.death import (
        LAST_MESSAGES_SECONDS,
        DeadKernel,
        dead_kernel,
        has_died,
        until_death,
    )
    from kernelproto.jupyter.provisioner import KernelProtoProvisioner

__all__ = [
    "AsyncIOLoopKernelManager",
    "AsyncKernelClient",
    "AsyncKernelManager",
    "AsyncMultiKernelManager",
    "BlockingKernelClient",
    "DeadKernel",
    "IOLoopKernelManager",
    "KernelManager",
    "MultiKernelManager",
    "run_kernel",
    "start_new_async_kernel",
    "start_new_kernel",
]

# A blocking call looks for the end of the process this often.
_LOOK_SECONDS = 0.05


class _AsyncChannel(AsyncZMQSocketChannel):
    """A channel: waiting calls raise DeadKernel after the end of the kernel's process."""

    manager: object = None

    async def get_msg(  # type: ignore[override]
        self,
        timeout: float | None = None,  # noqa: ASYNC109 (as in jupyter_client)
    ) -> dict[str, Any]:
        """Return the next message.

        Raises:
            Empty: no message within *timeout*, in seconds; None waits without a limit.
            DeadKernel: the kernel's process has ended, and all messages were returned.
        """
        # A task less for each message that has arrived already, and for calls that do not wait.
        if (timeout is not None and timeout <= 0) or await self.msg_ready():
            return await super().get_msg(timeout)
        return await until_death(self.manager, super().get_msg(timeout))


class _BlockingChannel(ZMQSocketChannel):
    """A channel: waiting calls raise DeadKernel after the end of the kernel's process."""

    manager: object = None

    def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message; exceptions as for the asynchronous channel."""
        deadline = None if timeout is None else time.monotonic() + timeout
        died = False
        while True:
            left = _LOOK_SECONDS if deadline is None else deadline - time.monotonic()
            wait = LAST_MESSAGES_SECONDS if died else _LOOK_SECONDS
            try:
                return super().get_msg(max(0, min(left, wait)))
            except Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
            if died:
                raise dead_kernel(self.manager)
            died = has_died(self.manager)


class _NoticesDeath(KernelClient):
    """The part of both clients that connects their channels with the KernelManager."""

    def start_channels(
        self,
        shell: bool = True,
        iopub: bool = True,
        stdin: bool = True,
        hb: bool = True,
        control: bool = True,
    ) -> None:
        """Start the channels; arguments as in jupyter_client."""
        super().start_channels(shell=shell, iopub=iopub, stdin=stdin, hb=hb, control=control)
        channels: list[Any] = [
            self._shell_channel,
            self._iopub_channel,
            self._stdin_channel,
            self._control_channel,
        ]
        for channel in filter(None, channels):
            channel.manager = self.parent

    async def _async_execute_interactive(self, *args: Any, **options: Any) -> dict[str, Any]:
        # This method waits for several sockets at once, not by the channels.
        client: Any = super()
        return await until_death(self.parent, client._async_execute_interactive(*args, **options))


class AsyncKernelClient(_NoticesDeath, _AsyncKernelClient):
    """jupyter_client's AsyncKernelClient; waiting calls raise DeadKernel if the kernel dies."""

    shell_channel_class = Type(_AsyncChannel)
    iopub_channel_class = Type(_AsyncChannel)
    stdin_channel_class = Type(_AsyncChannel)
    control_channel_class = Type(_AsyncChannel)

    execute_interactive = _NoticesDeath._async_execute_interactive


class BlockingKernelClient(_NoticesDeath, _BlockingKernelClient):
    """jupyter_client's BlockingKernelClient; waiting calls raise DeadKernel if the kernel dies."""

    shell_channel_class = Type(_BlockingChannel)
    iopub_channel_class = Type(_BlockingChannel)
    stdin_channel_class = Type(_BlockingChannel)
    control_channel_class = Type(_BlockingChannel)

    execute_interactive = run_sync(_NoticesDeath._async_execute_interactive)


class _Launches(_KernelManager):
    """The part of all managers that chooses the provisioner."""

    async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
        kernelspec = self.kernel_spec
        if self.provisioner is None and kernelspec is not None:
            stanza = kernelspec.metadata.get("kernel_provisioner", {})
            if "provisioner_name" not in stanza:
                own: Any = self
                own.kernel_id = own.kernel_id or options.pop("kernel_id", str(uuid.uuid4()))
                self.provisioner = KernelProtoProvisioner(
                    kernel_id=own.kernel_id, kernel_spec=kernelspec, parent=self
                )
        return await super()._async_pre_start_kernel(**options)


class KernelManager(_Launches):
    """jupyter_client's KernelManager, for synchronous code."""

    client_class = DottedObjectName("kernelproto.jupyter.client.BlockingKernelClient", config=True)
    client_factory = Type(BlockingKernelClient, KernelClient, config=True)


class AsyncKernelManager(KernelManager, _AsyncKernelManager):
    """jupyter_client's AsyncKernelManager, for asyncio."""

    client_class = DottedObjectName("kernelproto.jupyter.client.AsyncKernelClient", config=True)
    client_factory = Type(AsyncKernelClient, KernelClient, config=True)


class IOLoopKernelManager(KernelManager, _IOLoopKernelManager):
    """jupyter_client's IOLoopKernelManager, which restarts a kernel that has died."""

    client_class = DottedObjectName("kernelproto.jupyter.client.BlockingKernelClient", config=True)
    client_factory = Type(BlockingKernelClient, KernelClient, config=True)


class AsyncIOLoopKernelManager(AsyncKernelManager, _AsyncIOLoopKernelManager):
    """jupyter_client's AsyncIOLoopKernelManager, which restarts a kernel that has died."""

    client_class = DottedObjectName("kernelproto.jupyter.client.AsyncKernelClient", config=True)
    client_factory = Type(AsyncKernelClient, KernelClient, config=True)


class MultiKernelManager(_MultiKernelManager):
    """jupyter_client's MultiKernelManager, for synchronous code."""

    kernel_manager_class = DottedObjectName(
        "kernelproto.jupyter.client.IOLoopKernelManager", config=True
    )


class AsyncMultiKernelManager(MultiKernelManager, _AsyncMultiKernelManager):
    """jupyter_client's AsyncMultiKernelManager, for asyncio."""

    kernel_manager_class = DottedObjectName(
        "kernelproto.jupyter.client.AsyncIOLoopKernelManager", config=True
    )


def start_new_kernel(
    startup_timeout: float = 60, kernel_name: str = "python", **options: Any
) -> tuple[KernelManager, BlockingKernelClient]:
    """Start a kernel, and return the manager and a ready client, as in jupyter_client.

    Args:
        startup_timeout: seconds.
        kernel_name: the name of a kernelspec.
        options: of ``KernelManager.start_kernel``.

    Raises:
        RuntimeError: the kernel did not become ready; a DeadKernel if the process ended.
        LaunchError: the kernel cannot be started.
    """
    manager = KernelManager(kernel_name=kernel_name)
    manager.start_kernel(**options)
    client = cast("BlockingKernelClient", manager.client())
    client.start_channels()
    try:
        client.wait_for_ready(timeout=startup_timeout)
    except BaseException:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        raise
    return manager, client


async def start_new_async_kernel(
    startup_timeout: float = 60, kernel_name: str = "python", **options: Any
) -> tuple[AsyncKernelManager, AsyncKernelClient]:
    """Start a kernel, as start_new_kernel() does, in asyncio."""
    manager: Any = AsyncKernelManager(kernel_name=kernel_name)
    await manager.start_kernel(**options)
    client: AsyncKernelClient = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=startup_timeout)
    except BaseException:
        client.stop_channels()
        await to_the_end(partial(manager.shutdown_kernel, now=True))
        raise
    return manager, client


@contextmanager
def run_kernel(**options: Any) -> Generator[BlockingKernelClient]:
    """Run a kernel for the block, and yield a client.

    Args:
        options: as for start_new_kernel().
    """
    manager, client = start_new_kernel(**options)
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
