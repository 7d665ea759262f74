"""jupyter_client, asynchronous and blocking, as its documentation uses it."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory

from benchmarks.peers.frames import text_of
from benchmarks.peers.peer import (
    Client,
    Launched,
    Peer,
    Program,
    Streamed,
    T,
    run_by_hand,
    run_in,
    since,
)

# More than the manager takes: half of 5 s until SIGTERM, half until SIGKILL, and 5 s.
_SHUTDOWN_SECONDS = 30.0

_SEND_MILLISECONDS = 10_000

OUTPUTS = frozenset(("stream", "display_data", "execute_result"))


class _Client:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def execute(self, code: str) -> int:
        count, _, _ = await self._finish({self._client.execute(code)})
        return count

    async def stream(self, code: str) -> Streamed:
        count, _, began = await self._finish({self._client.execute(code)})
        return Streamed(count, since(began))

    async def buffers(self, code: str) -> Streamed:
        _, size, began = await self._finish({self._client.execute(code)})
        return Streamed(size, since(began))

    async def pipeline(self, code: str, count: int) -> None:
        await self._finish({self._client.execute(code) for _ in range(count)})

    async def _finish(self, requests: Collection[str]) -> tuple[int, int, str | None]:
        began, count, size = None, 0, 0
        idle, replies = 0, 0
        while idle < len(requests):
            message = await self._client.get_iopub_msg()
            if message["parent_header"].get("msg_id") not in requests:
                continue
            if message["msg_type"] in OUTPUTS:
                count += 1
                began = began or text_of(message["content"])
                size += sum(map(len, message["buffers"]))
            elif message["content"].get("execution_state") == "idle":
                idle += 1
        while replies < len(requests):
            message = await self._client.get_shell_msg()
            replies += message["parent_header"].get("msg_id") in requests
        return count, size, began


class JupyterClient(Peer):
    """jupyter_client's AsyncKernelClient."""

    name = "jupyter_client async"

    @asynccontextmanager
    async def open(self, file: Path) -> AsyncGenerator[Any]:
        """Open a client and nothing else."""
        client = AsyncKernelClient(connection_file=str(file))
        client.load_connection_file()
        client.start_channels()
        try:
            await client.wait_for_ready()
            yield client
        finally:
            client.stop_channels()

    @asynccontextmanager
    async def connect(self, file: Path) -> AsyncGenerator[Client]:
        async with self.open(file) as client:
            yield _Client(client)


class _BlockingClient(_Client):
    """The same over the blocking client, whose calls return messages instead of awaitables."""

    def __init__(self, client: BlockingKernelClient) -> None:
        super().__init__(_Awaitable(client))


class _Awaitable:
    def __init__(self, client: BlockingKernelClient) -> None:
        self.execute = client.execute
        self._client = client

    async def get_iopub_msg(self) -> dict[str, Any]:
        return self._client.get_iopub_msg()

    async def get_shell_msg(self) -> dict[str, Any]:
        return self._client.get_shell_msg()


class JupyterClientBlocking(Peer):
    """jupyter_client's BlockingKernelClient."""

    name = "jupyter_client blocking"

    def run(self, program: Program[T]) -> T:
        return run_by_hand(program)

    @asynccontextmanager
    async def connect(self, file: Path) -> AsyncGenerator[Client]:
        client = BlockingKernelClient(connection_file=str(file))
        client.load_connection_file()
        client.start_channels()
        try:
            client.wait_for_ready()
            yield _BlockingClient(client)
        finally:
            client.stop_channels()


def _limit_sends(manager: KernelManager, client: Any) -> None:
    """Make a send fail that would block the event loop for ever.

    Another program may take a port before the kernel has it. If that is the shell port, the kernel
    ends, the client's socket has no peer, and ``wait_for_ready`` blocks in its next send.
    """
    for context in (manager.context, client.context):
        context.setsockopt(zmq.SNDTIMEO, _SEND_MILLISECONDS)


class _Launched:
    def __init__(self, manager: Any, client: Any, wrapped: Client) -> None:
        self._manager = manager
        self._client = client
        self.client = wrapped
        self.pid: int = manager.provisioner.pid

    async def shutdown(self) -> None:
        self._client.stop_channels()
        await self._manager.shutdown_kernel()

    async def death(self, code: str) -> None:
        await self.client.execute(code)


class JupyterLauncher:
    """jupyter_client's AsyncKernelManager.

    Args:
        provisioner: the name of another provisioner than its own.
    """

    def __init__(self, provisioner: str | None = None) -> None:
        self.name = "jupyter_client async"
        if provisioner is not None:
            self.name += f", provisioner {provisioner}"
        self._provisioner = provisioner

    def run(self, program: Program[T]) -> T:
        return run_in("asyncio", program)

    @asynccontextmanager
    async def launch(self) -> AsyncGenerator[Launched]:
        manager = AsyncKernelManager(kernel_name="python3")
        provisioners = KernelProvisionerFactory.instance()
        default = provisioners.default_provisioner_name
        provisioners.default_provisioner_name = self._provisioner or default
        try:
            await manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        finally:
            provisioners.default_provisioner_name = default
        client = manager.client()
        _limit_sends(manager, client)
        try:
            client.start_channels()
            await client.wait_for_ready()
            yield _Launched(manager, client, _Client(client))
        finally:
            with anyio.fail_after(_SHUTDOWN_SECONDS, shield=True):
                client.stop_channels()
                if manager.has_kernel:
                    await manager.shutdown_kernel()


class _BlockingLaunched(_Launched):
    async def shutdown(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel()


class JupyterBlockingLauncher:
    """jupyter_client's KernelManager."""

    name = "jupyter_client blocking"

    def run(self, program: Program[T]) -> T:
        return run_by_hand(program)

    @asynccontextmanager
    async def launch(self) -> AsyncGenerator[Launched]:
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = manager.client()
        _limit_sends(manager, client)
        try:
            client.start_channels()
            client.wait_for_ready()
            yield _BlockingLaunched(manager, client, _BlockingClient(client))
        finally:
            client.stop_channels()
            if manager.has_kernel:
                manager.shutdown_kernel()
