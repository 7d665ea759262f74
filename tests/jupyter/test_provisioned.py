"""Kernelspecs that name a provisioner: here jupyter_client's own one, under another name."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from jupyter_client.provisioning import KernelProvisionerFactory

from kernelproto import (
    InvalidKernelSpec,
    InvalidLaunchParameter,
    KernelDied,
    KernelPool,
    LaunchError,
    NoSuchKernel,
    run_kernel,
)
from kernelproto.jupyter.provisioned import ProvisionedManager, ProvisionedProvider
from kernelproto.launch.finder import KernelFinder
from kernelproto.registry import SQLiteRegistry

ARGV = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
LOCAL = "jupyter_client.provisioning.local_provisioner:LocalProvisioner"

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True)
def far(kernelspec: Callable[..., Path]) -> Iterator[Path]:
    """Register a provisioner, and install a kernelspec that names it."""
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["far"] = EntryPoint("far", LOCAL, factory.GROUP_NAME)
    yield kernelspec("far", ARGV, metadata={"kernel_provisioner": {"provisioner_name": "far"}})
    KernelProvisionerFactory.clear_instance()


async def unavailable() -> dict[str, str | None]:
    found = ProvisionedProvider().find_kernels()
    return {name: attributes.get("unavailable") async for name, attributes in found}


@pytest.mark.asyncio
async def test_kernel(tmp_path: Path) -> None:
    assert await unavailable() == {"far": None}
    code = "import os; (os.environ['A'], os.getcwd())"
    options = {"env": {"A": "1"}, "cwd": tmp_path, "finder": KernelFinder([ProvisionedProvider()])}
    async with run_kernel("provisioned/far", **options) as kernel:
        assert isinstance(kernel.manager, ProvisionedManager)
        assert (await kernel.execute(code)).text == str(("1", str(tmp_path)))
        async with kernel.execute("import time; print('begun'); time.sleep(1000)") as execution:
            await anext(aiter(execution))
            await kernel.interrupt()
            assert (await execution).status == "error"
        await kernel.restart()
        assert (await kernel.execute(code)).text == str(("1", str(tmp_path)))
        execution = kernel.execute("import time; time.sleep(1000)")
        async with execution:
            await kernel.manager.signal(signal.SIGKILL)
            with pytest.raises(KernelDied, match="SIGKILL"):
                await execution
        manager = kernel.manager
    assert await manager.wait() == -signal.SIGKILL
    await manager.cleanup()


@pytest.mark.parametrize(
    "params", [{"limits": {"memory": 1}}, {"detached": True}, {"output": "a"}, {"env": 1}]
)
@pytest.mark.asyncio
async def test_launch_parameters_without_meaning(params: dict[str, object]) -> None:
    with pytest.raises(InvalidLaunchParameter, match=next(iter(params))):
        await ProvisionedProvider().launch("far", launch_params=params)


@pytest.mark.asyncio
async def test_pool_that_keeps_its_kernels_says_why_it_refuses_one(tmp_path: Path) -> None:
    async with (
        SQLiteRegistry(tmp_path / "kernels.sqlite") as registry,
        KernelPool(kernel_type="provisioned/far", registry=registry) as pool,
    ):
        with pytest.raises(InvalidLaunchParameter, match="in a pool without a registry"):
            await pool.get("ada")


@pytest.mark.asyncio
async def test_kernels_that_cannot_be_started(kernelspec: Callable[..., Path]) -> None:
    provider = ProvisionedProvider()
    with pytest.raises(NoSuchKernel, match="install its kernelspec"):
        await provider.launch("near")
    kernelspec("near", ARGV)
    with pytest.raises(NoSuchKernel, match="use spec/near"):
        await provider.launch("near")
    with pytest.raises(InvalidKernelSpec, match="start the kernel with provisioned/far"):
        await KernelFinder.from_entrypoints().launch("far")
    with pytest.raises(LaunchError, match="'far' of the kernelspec 'far' cannot start a kernel"):
        await provider.launch("far", cwd="/no/such/folder")
    del KernelProvisionerFactory.instance().provisioners["far"]
    with pytest.raises(LaunchError, match="it is not installed"):
        await provider.launch("far")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio() -> None:
    assert "asyncio only" in str((await unavailable())["far"])
    with pytest.raises(LaunchError, match="asyncio only"):
        await ProvisionedProvider().launch("far")
