"""jupyverse's kernel driver and its sockets, on platforms where they work.

Neither verifies nor decodes messages, so ``frames.Wire`` does it for them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import zmq

from benchmarks.exceptions import Skipped
from benchmarks.peers.decoding import DecodingClient
from benchmarks.peers.frames import Frames, read_info
from benchmarks.peers.peer import Client, Launched, Peer, Program, T, run_in

try:
    import zmq_anyio
    from fps_kernel_subprocess.kernel_subprocess import KernelSubprocess
except ImportError:
    zmq_anyio = KernelSubprocess = None  # type: ignore[assignment,misc]


def _require(module: object) -> None:
    if module is None:
        raise Skipped("zmq-anyio and fps-kernel-subprocess are not installed")


class _SocketClient(DecodingClient):
    def __init__(self, info: dict[str, Any], shell: Any, iopub: Any) -> None:
        super().__init__(info)
        self._shell, self._iopub = shell, iopub

    async def send(self, frames: list[bytes]) -> None:
        await self._shell.asend_multipart(frames)

    async def receive(self) -> Frames:
        frames: Frames = await self._iopub.arecv_multipart()
        return frames

    async def receive_reply(self) -> Frames:
        frames: Frames = await self._shell.arecv_multipart()
        return frames


class ZmqAnyio(Peer):
    """zmq-anyio's sockets."""

    name = "zmq-anyio"

    @asynccontextmanager
    async def connect(self, file: Path) -> AsyncGenerator[Client]:
        _require(zmq_anyio)
        info = read_info(file)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        sockets = [context.socket(kind) for kind in (zmq.DEALER, zmq.SUB)]
        sockets[1].set(zmq.SUBSCRIBE, b"")
        for socket, channel in zip(sockets, ("shell", "iopub"), strict=True):
            socket.connect(f"tcp://{info['ip']}:{info[channel + '_port']}")
        try:
            async with zmq_anyio.Socket(sockets[0]) as shell, zmq_anyio.Socket(sockets[1]) as iopub:
                client = _SocketClient(info, shell, iopub)
                await client.wait_for_ready()
                yield client
        finally:
            context.destroy(linger=0)


class _KernelClient(DecodingClient):
    def __init__(self, kernel: Any) -> None:
        super().__init__(kernel.connection_cfg)
        self._kernel = kernel

    async def send(self, frames: list[bytes]) -> None:
        await self._kernel.shell_stream.send(frames)

    async def receive(self) -> Frames:
        frames: Frames = await self._kernel.iopub_stream.receive()
        return frames

    async def receive_reply(self) -> Frames:
        frames: Frames = await self._kernel.shell_stream.receive()
        return frames


@asynccontextmanager
async def _started(argv: list[str], file: Path | None) -> AsyncGenerator[Any]:
    _require(KernelSubprocess)
    async with anyio.NamedTemporaryFile("w") as kernelspec, anyio.create_task_group() as tasks:
        await kernelspec.write(json.dumps({"argv": argv}))
        await kernelspec.flush()
        kernel = KernelSubprocess(
            write_connection_file=file is None,
            kernelspec_path=str(kernelspec.name),
            connection_file="" if file is None else str(file),
            kernel_cwd=None,
            capture_output=True,
        )
        await tasks.start(kernel.start)
        try:
            yield kernel
        finally:
            await kernel.stop()


class Jupyverse(Peer):
    """fps-kernel-subprocess, which always starts a process: here one that does nothing."""

    name = "fps-kernel-subprocess"

    @asynccontextmanager
    async def connect(self, file: Path) -> AsyncGenerator[Client]:
        async with _started(["sleep", "infinity"], file) as kernel:
            client = _KernelClient(kernel)
            await client.wait_for_ready()
            yield client


class _Launched:
    def __init__(self, kernel: Any, client: Client) -> None:
        self._kernel = kernel
        self.client = client
        self.pid: int = kernel._process.pid

    async def shutdown(self) -> None:
        await self._kernel.stop()
        await self._kernel._process.wait()

    async def death(self, code: str) -> None:
        await self.client.execute(code)


class JupyverseLauncher:
    """fps-kernel-subprocess with ipykernel. It ends kernels by SIGTERM, without asking them."""

    name = "fps-kernel-subprocess"

    def run(self, program: Program[T]) -> T:
        return run_in("asyncio", program)

    @asynccontextmanager
    async def launch(self) -> AsyncGenerator[Launched]:
        argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        async with _started(argv, None) as kernel:
            client = _KernelClient(kernel)
            await client.wait_for_ready()
            yield _Launched(kernel, client)
