"""Programs written for jupyter_client with another import, and real kernels."""

from __future__ import annotations

import asyncio
import queue
import signal
from collections.abc import Callable
from pathlib import Path

import jupyter_client
import pytest
from jupyter_core.utils import ensure_event_loop

from kernelproto import KernelDied
from kernelproto.jupyter import client
from kernelproto.jupyter.client import (
    AsyncKernelManager,
    AsyncMultiKernelManager,
    BlockingKernelClient,
    DeadKernel,
    KernelManager,
    MultiKernelManager,
    run_kernel,
    start_new_async_kernel,
    start_new_kernel,
)
from kernelproto.jupyter.provisioner import KernelProtoProvisioner

GUARD_SECONDS = 60

pytestmark = pytest.mark.usefixtures("no_leaks", "no_server")


@pytest.fixture
def own(kernelspec: Callable[..., Path]) -> str:
    """Install a kernelspec of the running Python, and return its name."""
    kernelspec("own", ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    return "own"


def test_types() -> None:
    assert issubclass(AsyncKernelManager, jupyter_client.AsyncKernelManager)
    assert issubclass(KernelManager, jupyter_client.KernelManager)
    assert issubclass(DeadKernel, KernelDied)
    assert issubclass(DeadKernel, RuntimeError)


@pytest.mark.asyncio
async def test_reply_that_will_not_come(own: str) -> None:
    manager, client = await start_new_async_kernel(GUARD_SECONDS, own, stdout=-3)
    try:
        assert isinstance(manager.provisioner, KernelProtoProvisioner)
        request = client.execute("import time; time.sleep(1000)", reply=True)
        waiting = asyncio.ensure_future(request)
        while (await client.get_iopub_msg())["msg_type"] != "execute_input":
            pass
        await manager.signal_kernel(signal.SIGKILL)
        with pytest.raises(DeadKernel, match="SIGKILL") as caught:
            await waiting
        assert caught.value.returncode == -signal.SIGKILL
        with pytest.raises(queue.Empty):
            await client.get_shell_msg(timeout=0)
        await manager.shutdown_kernel()
        with pytest.raises(DeadKernel, match="shut down"):
            await client.get_shell_msg()
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


@pytest.mark.asyncio
async def test_interaction_with_a_kernel_that_dies(own: str) -> None:
    manager, client = await start_new_async_kernel(GUARD_SECONDS, own, stdout=-3)
    texts: list[str] = []

    kills: list[asyncio.Future[None]] = []

    def show(message: dict) -> None:
        texts.append(message["content"].get("text", ""))
        if texts[-1] == "last\n":
            kills.append(asyncio.ensure_future(manager.signal_kernel(signal.SIGKILL)))

    try:
        await client.execute_interactive("print(1)", output_hook=show)
        code = "import time; print('last'); time.sleep(1000)"
        with pytest.raises(DeadKernel, match="SIGKILL"):
            await client.execute_interactive(code, output_hook=show)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    assert "".join(texts) == "1\nlast\n"


@pytest.mark.asyncio
async def test_kernel_that_does_not_start(kernelspec: Callable[..., Path]) -> None:
    kernelspec("broken", ["python", "-c", "exit(3)", "{connection_file}"])
    with pytest.raises(DeadKernel, match="exit status 3"):
        await start_new_async_kernel(GUARD_SECONDS, "broken")


@pytest.mark.asyncio
async def test_many_kernels(own: str) -> None:
    kernels = AsyncMultiKernelManager()
    kernel_id = await kernels.start_kernel(kernel_name=own, stdout=-3)
    try:
        manager = kernels.get_kernel(kernel_id)
        assert isinstance(manager.provisioner, KernelProtoProvisioner)
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(GUARD_SECONDS)
        await client.execute("1", reply=True, timeout=GUARD_SECONDS)
        client.stop_channels()
    finally:
        await kernels.shutdown_all(now=True)


def read_for_ever(client: BlockingKernelClient, texts: list[str]) -> None:
    while True:
        texts.append(client.get_iopub_msg()["content"].get("text", ""))


def test_synchronous_code(own: str) -> None:
    kernels = MultiKernelManager()
    assert kernels.kernel_manager_factory().client_class.startswith("kernelproto.")
    kernels.context.destroy()
    with run_kernel(kernel_name=own, stdout=-3) as client:
        client.execute("1")
        assert client.get_shell_msg(GUARD_SECONDS)["content"]["status"] == "ok"
        with pytest.raises(queue.Empty):
            client.get_shell_msg(timeout=0.01)
    manager, client = start_new_kernel(kernel_name=own, stdout=-3)
    try:
        client.execute("print('last')", reply=True, timeout=GUARD_SECONDS)
        manager.signal_kernel(signal.SIGKILL)
        texts: list[str] = []
        with pytest.raises(DeadKernel, match="SIGKILL"):
            read_for_ever(client, texts)
        assert "last\n" in texts
        with pytest.raises(DeadKernel, match="SIGKILL"):
            client.execute_interactive("1")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        ensure_event_loop().close()  # of jupyter_client, which keeps it for synchronous code


@pytest.mark.parametrize("name", [name for name in client.__all__ if name.endswith("Manager")])
def test_managers_are_subclasses_of_each_other_as_in_jupyter_client(name: str) -> None:
    ours: dict[str, type] = {n: getattr(client, n) for n in client.__all__ if n.endswith("Manager")}
    theirs = {n: next(c for c in ours[n].__mro__[1:] if c.__name__ == n) for n in ours}

    assert [n for n in ours if issubclass(ours[name], ours[n])] == [
        n for n in ours if issubclass(theirs[name], theirs[n])
    ]
