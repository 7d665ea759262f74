from __future__ import annotations

import anyio
import pytest

from kernelproto import KernelFinder, KernelPool, NoSuchKernel
from kernelproto.pool import WarmKernels
from kernelproto.testing import FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


class OtherProvider(FakeProvider):
    """A provider with the kernel type ``other/kernel``."""

    id = "other"


async def launched(provider: FakeProvider, count: int) -> None:
    """Wait until a provider has launched some kernels, and the pool has noticed."""
    with anyio.fail_after(GUARD_SECONDS):
        while len(provider.kernels) < count:
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()


async def test_each_kernel_type_has_its_own_warm_kernels() -> None:
    params = {"env": {"A": "1"}}
    async with (
        FakeProvider() as fake,
        OtherProvider() as other,
        KernelPool(
            finder=KernelFinder([fake, other]),
            kernel_type="fake/kernel",
            warm={"fake/kernel": 1, "other/kernel": WarmKernels(2, launch_params=params)},
        ) as pool,
    ):
        await launched(fake, 1)
        await launched(other, 2)
        ada = await pool.get("ada")
        assert ada.connection_info == fake.kernels[0].connection_info
        bob = await pool.get("bob", kernel_type="other/kernel", launch_params=params)
        assert bob.connection_info == other.kernels[0].connection_info
        assert other.kernels[0].env == {"A": "1"}
        kim = await pool.get("kim", kernel_type="other/kernel")
        assert kim.connection_info == other.kernels[-1].connection_info
        assert "A" not in other.kernels[-1].env
        await launched(fake, 2)
        await launched(other, 4)
        assert [kernel.user for kernel in pool.kernels()] == ["ada", "bob", "kim"]
    assert all(kernel.returncode is not None for kernel in fake.kernels + other.kernels)


@pytest.mark.parametrize("warm", [1, {"fake/kernel": 1}, {"kernel": 1}])
@pytest.mark.parametrize("asked", [None, "fake/kernel", "kernel"])
async def test_any_name_of_a_kernel_type_gets_its_warm_kernel(warm, asked: str | None) -> None:
    async with (
        FakeProvider() as fake,
        KernelPool(finder=KernelFinder([fake]), kernel_type="fake/kernel", warm=warm) as pool,
    ):
        await launched(fake, 1)
        kernel = await pool.get("ada", kernel_type=asked)
        assert kernel.connection_info == fake.kernels[0].connection_info


async def test_warm_kernels_need_no_place_in_the_pool() -> None:
    async with (
        FakeProvider() as fake,
        KernelPool(
            finder=KernelFinder([fake]),
            kernel_type="fake/kernel",
            max_kernels=1,
            warm={"kernel": 3},
        ) as pool,
    ):
        await launched(fake, 3)
        assert pool.kernels() == []
        await pool.get("ada")
        await launched(fake, 4)


async def test_unknown_kernel_type_is_refused() -> None:
    async with FakeProvider() as fake:
        pool = KernelPool(
            finder=KernelFinder([fake]), kernel_type="fake/kernel", warm={"spec/ir": 1}
        )
        with pytest.raises(NoSuchKernel, match=r"'spec/ir'; there are fake/kernel; .*from warm"):
            async with pool:
                pass
    assert fake.kernels == []


async def test_kernel_type_with_two_names_is_refused() -> None:
    async with FakeProvider() as fake:
        warm = {"kernel": 1, "fake/kernel": 1}
        pool = KernelPool(finder=KernelFinder([fake]), kernel_type="fake/kernel", warm=warm)
        with pytest.raises(ValueError, match="'kernel' and 'fake/kernel' are one kernel type"):
            async with pool:
                pass


@pytest.mark.parametrize("warm", [-1, {"kernel": -1}, {"kernel": WarmKernels(-1)}])
async def test_negative_number_is_refused(warm) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        KernelPool(warm=warm)
