"""The plug-in of jupyverse, by the interface that jupyverse uses."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from fps import Module
from jupyverse_kernel import DefaultKernelFactory, Kernel

from kernelproto import InvalidLaunchParameter, run_kernel
from kernelproto.jupyter.jupyverse import KernelProtoKernel, KernelProtoModule
from kernelproto.wire.codec import Codec
from kernelproto.wire.message import Header, Message

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_server")]

KERNELSPEC = "kernels/python3/kernel.json"
GUARD_SECONDS = 60


@asynccontextmanager
async def running(**options: Any) -> AsyncGenerator[Kernel]:
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            kernel = DefaultKernelFactory(KernelProtoKernel)(kernelspec_path=KERNELSPEC, **options)
            await tasks.start(kernel.start)
            try:
                await become_ready(kernel)
                yield kernel
            finally:
                await kernel.stop()


async def become_ready(kernel: Kernel) -> None:
    """Wait as jupyverse does: iopub is connected once it has an answer."""
    while True:
        await send(kernel, "kernel_info_request")
        with anyio.move_on_after(0.5):
            await receive(kernel, kernel.iopub_stream, "status")
            return


async def send(kernel: Kernel, msg_type: str, **content: object) -> None:
    # ipykernel ignores a message that it has received before.
    header = Header(msg_id=str(uuid.uuid4()), msg_type=msg_type, session="a", version="5.3")
    frames = Codec(kernel.key.encode()).encode(Message.build(header, content))
    await kernel.shell_stream.send([bytes(frame) for frame in frames])


async def receive(kernel: Kernel, stream: Any, msg_type: str) -> Message:
    """Return the next message of this type."""
    codec = Codec(kernel.key.encode())
    while True:
        message = codec.decode(await stream.receive())
        if message.msg_type == msg_type:
            return message


async def test_kernel_is_executed_and_interrupted() -> None:
    async with running() as kernel:
        await send(kernel, "execute_request", code="print('busy', flush=True)\nwhile True: pass")
        await receive(kernel, kernel.iopub_stream, "stream")
        await kernel.interrupt()

        reply = await receive(kernel, kernel.shell_stream, "execute_reply")
        assert reply.content.ename == "KeyboardInterrupt"


async def test_kernel_of_another_program_is_left_running() -> None:
    async with run_kernel("fork/kernel") as other:
        path = other.manager.connection_file
        async with running(write_connection_file=False, connection_file=path) as kernel:
            await send(kernel, "kernel_info_request")
            await receive(kernel, kernel.shell_stream, "kernel_info_reply")

        assert await other.manager.is_alive()


async def test_environment_of_micromamba_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "environment.yml"
    path.touch()

    with pytest.raises(InvalidLaunchParameter, match="micromamba"):
        await KernelProtoKernel(kernelspec_path=KERNELSPEC, kernelenv_path=str(path)).start()


async def test_module_provides_the_kernels() -> None:
    async with KernelProtoModule("kernelproto") as module:
        assert await module.get(DefaultKernelFactory)


async def test_module_leaves_the_kernels_to_the_plug_in_of_jupyverse() -> None:
    class Other(Module):
        async def prepare(self) -> None:
            self.put(DefaultKernelFactory(KernelProtoKernel))

    class Root(Module):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.add_module(Other, "kernel_subprocess")
            self.add_module(KernelProtoModule, "kernelproto")

    async with Root("root") as root:
        assert not root.exceptions
