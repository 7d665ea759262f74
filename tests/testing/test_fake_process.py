from __future__ import annotations

import anyio
import pytest

from kernelproto import run_kernel
from kernelproto.exceptions import InvalidLaunchParameter, KernelDied, LaunchError, NoSuchKernel
from kernelproto.interfaces import KernelManager, KernelProvider
from kernelproto.launch.finder import KernelFinder
from kernelproto.testing import FakeManager, FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def test_kernels_are_launched_and_prepared(tmp_path) -> None:
    def prepare(kernel) -> None:
        kernel.on_execute("where", result=f"{kernel.cwd} {kernel.env['A']}")

    async with FakeProvider(prepare) as provider:
        assert isinstance(provider, KernelProvider)
        info, manager = await KernelFinder([provider]).launch(
            "fake/kernel",
            cwd=str(tmp_path),
            launch_params={"env": {"A": "1"}, "transport": "tcp"},
        )
        assert isinstance(manager, KernelManager)
        (kernel,) = provider.kernels
        assert (info, manager.kernel_id) == (kernel.connection_info, kernel.kernel_id)
        assert info.transport == "tcp"
        async with kernel.connect() as client:
            assert (await client.execute("where")).text == f"{tmp_path} 1"
            await client.shutdown()
        assert await manager.wait() == 0


@pytest.mark.parametrize(
    ("method", "status"), [("terminate", -15), ("kill", -9), ("cleanup", -9), ("interrupt", None)]
)
async def test_signals_have_their_effect(method, status) -> None:
    async with FakeProvider() as provider:
        _, manager = await provider.launch("kernel")
        await getattr(manager, method)()
        assert manager.kernel.returncode == status
        assert await manager.is_alive() == (status is None)


async def test_an_interrupt_reaches_the_code() -> None:
    async with FakeProvider() as provider:
        _, manager = await provider.launch("kernel")
        assert isinstance(manager, FakeManager)

        async def interrupt(exchange) -> None:
            await manager.interrupt()
            await anyio.sleep_forever()

        manager.kernel.on_execute("interrupt", interrupt)
        async with manager.kernel.connect() as client:
            assert (await client.execute("interrupt")).error.ename == "KeyboardInterrupt"


@pytest.mark.parametrize("options", [{"launch_params": {"evn": {}}}, {"cwd": "/dev/null"}])
async def test_bad_launches_are_refused(options) -> None:
    async with FakeProvider() as provider:
        with pytest.raises(InvalidLaunchParameter):
            await provider.launch("kernel", **options)
        with pytest.raises(NoSuchKernel):
            await provider.launch("kernle")
        assert provider.kernels == []


async def test_the_block_ends_its_kernels() -> None:
    async with FakeProvider() as provider:
        _, manager = await provider.launch("kernel")
    assert not await manager.is_alive()


async def test_run_kernel_runs_a_fake_kernel() -> None:
    async with (
        FakeProvider() as provider,
        run_kernel("fake/kernel", finder=KernelFinder([provider])) as kernel,
    ):
        assert (await kernel.execute("anything")).status == "ok"
        provider.kernels[0].die(-11)
        with pytest.raises(KernelDied, match="SIGSEGV"):
            await kernel.execute("more")


async def test_launch_outside_the_block_is_refused() -> None:
    provider = FakeProvider()
    with pytest.raises(LaunchError, match="async with"):
        await provider.launch("kernel")
    async with provider:
        pass
    with pytest.raises(LaunchError, match="async with"):
        await provider.launch("kernel")
