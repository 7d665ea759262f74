"""Checks of a provider that finds kernels by the ids of their launches; see FindsLaunched."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelproto import KernelFinder, KernelPool, adopt_kernel
from kernelproto.exceptions import KernelInUse
from kernelproto.interfaces import KernelProvider
from kernelproto.launch.launched import FindsLaunched, find_launched
from kernelproto.registry import SQLiteRegistry


async def check_kernels_of_a_pool(provider: KernelProvider, kernel_type: str, folder: Path) -> None:
    """Check that the next pool with the same registry has the kernel, and that no other may.

    Args:
        provider: the provider.
        kernel_type: the kernel type, ``provider/name``.
        folder: an empty folder for the registry.
    """
    finder = KernelFinder([provider])

    def pool_of(registry: SQLiteRegistry) -> KernelPool:
        return KernelPool(kernel_type=kernel_type, finder=finder, registry=registry)

    async with SQLiteRegistry(folder / "registry") as registry:
        async with pool_of(registry) as pool:
            kernel = await pool.get("ada")
            kernel_id = kernel.kernel_id
            await kernel.execute("x = 42")
        async with pool_of(registry) as pool:
            kernel = await pool.get("ada")
            assert (await kernel.execute("x")).text == "42"
            await kernel.restart()
            assert kernel.kernel_id == kernel_id
            found = await find_launched(finder, kernel_type, kernel_id)
            assert found is not None
            assert found == kernel.handle
            with pytest.raises(KernelInUse):
                await finder.adopt(found)
            await pool.release("ada")
        assert await registry.kernels() == []
        assert await find_launched(finder, kernel_type, kernel_id) is None


async def check_kernel_of_a_launch(provider: KernelProvider, kernel_type: str) -> None:
    """Check that a detached kernel is found by the id of its launch, and only by that."""
    assert isinstance(provider, FindsLaunched)
    finder = KernelFinder([provider])
    params = {"listed_as": "mine", "detached": True}
    _, manager = await finder.launch(kernel_type, launch_params=params)
    await manager.detach()
    assert await find_launched(finder, kernel_type, "another") is None
    handle = await find_launched(finder, kernel_type, "mine")
    assert handle is not None
    async with adopt_kernel(handle, finder=finder) as kernel:
        assert (await kernel.execute("6 * 7")).text == "42"
    assert await find_launched(finder, kernel_type, "mine") is None
