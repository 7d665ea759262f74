from __future__ import annotations

import anyio
import pytest

from kernelproto import KernelFinder, LaunchError, NoSuchKernel, run_kernel
from kernelproto.interfaces import KernelProvider
from kernelproto.launch import warm as module
from kernelproto.launch.warm import WarmProvider
from kernelproto.testing import FakeProvider, Snippets, check_kernel_provider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


def prepare(fake) -> None:
    fake.on_execute("6 * 7", result="42")


async def launched(fakes: FakeProvider, count: int) -> None:
    """Wait until so many kernels were launched, and are at hand."""
    while len(fakes.kernels) < count:
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


async def test_spares_are_handed_out_once_and_replaced() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with FakeProvider(prepare) as fakes:
            async with WarmProvider(fakes, "kernel", warm=2) as provider:
                assert isinstance(provider, KernelProvider)
                await launched(fakes, 2)
                assert provider.ready == 2
                first, second = fakes.kernels
                async with run_kernel("warm/kernel", finder=KernelFinder([provider])) as kernel:
                    assert kernel.connection_info == first.connection_info
                    assert (await kernel.execute("6 * 7")).text == "42"
                    await launched(fakes, 3)
                    assert provider.ready == 2
                info, manager = await provider.launch("kernel")
                assert info == second.connection_info
                await launched(fakes, 4)
                await manager.cleanup()
            assert provider.ready == 0
            assert all(kernel.returncode is not None for kernel in fakes.kernels)


async def test_spare_that_has_died_is_replaced() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with FakeProvider() as fakes, WarmProvider(fakes, "kernel", warm=1) as provider:
            await launched(fakes, 1)
            fakes.kernels[0].die()
            await launched(fakes, 2)
            info, _ = await provider.launch("kernel")
            assert info == fakes.kernels[1].connection_info


async def test_spare_that_has_just_died_is_not_handed_out() -> None:
    async with FakeProvider() as fakes, WarmProvider(fakes, "kernel", warm=1) as provider:
        await launched(fakes, 1)
        fakes.kernels[0].die()
        info, _ = await provider.launch("kernel")
        assert info != fakes.kernels[0].connection_info


async def test_other_parameters_are_an_ordinary_launch(tmp_path) -> None:
    params = {"env": {"A": "1"}}
    async with (
        FakeProvider() as fakes,
        WarmProvider(fakes, "kernel", warm=1, launch_params=params) as provider,
    ):
        await launched(fakes, 1)
        for options in ({"cwd": str(tmp_path), "launch_params": params}, {}):
            await provider.launch("kernel", **options)
            assert provider.ready == 1
        info, _ = await provider.launch("kernel", launch_params=params)
        assert info == fakes.kernels[0].connection_info
        with pytest.raises(NoSuchKernel):
            await provider.launch("other")


async def test_launch_that_fails_is_tried_again(monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)

    class Reluctant(FakeProvider):
        failures = 3

        async def launch(self, *args, **options):
            if self.failures:
                self.failures -= 1
                raise LaunchError("not yet")
            return await super().launch(*args, **options)

    with anyio.fail_after(GUARD_SECONDS):
        async with Reluctant() as fakes, WarmProvider(fakes, "kernel", warm=1):
            await launched(fakes, 1)
    assert caplog.text.count("not yet") == 3


async def test_waiting_until_it_is_warm() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with FakeProvider() as fakes, WarmProvider(fakes, "kernel", warm=3) as provider:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(provider.wait_until_warm)
            assert provider.ready == 3


async def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        WarmProvider(FakeProvider(), "kernel", warm=-1)


async def test_conformance() -> None:
    async with FakeProvider() as fakes, WarmProvider(fakes, "kernel", warm=1) as provider:
        await check_kernel_provider(provider, snippets=Snippets(), patience=GUARD_SECONDS)
