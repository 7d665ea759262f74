"""Other programs that are faster at a kernel's ports: it is launched again on others."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import anyio
import pytest

from kernelproto import ConnectionInfo, KernelExitedEarly, KernelFinder, run_kernel
from kernelproto.launch import launcher
from kernelproto.launch.address.connection_file import ConnectionFile
from kernelproto.wire.connection import ChannelName

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


class Thief:
    """Listens at the ports of new kernels before they can.

    Attributes:
        channels: at which ports.
        is_interested: whether it robs this launch, counted from 1.
        launched: where kernels were to listen.
    """

    def __init__(self) -> None:
        self.channels: list[ChannelName] = ["shell"]
        self.is_interested: Callable[[int], bool] = lambda launch: launch == 1
        self.launched: list[ConnectionInfo] = []
        self.loot = ExitStack()

    def look_at(self, info: ConnectionInfo) -> None:
        self.launched.append(info)
        if self.is_interested(len(self.launched)):
            for channel in self.channels:
                self.loot.enter_context(socket.create_server((info.ip, info.port(channel))))


@pytest.fixture
def thief(monkeypatch: pytest.MonkeyPatch) -> Iterator[Thief]:
    thief = Thief()
    create = ConnectionFile.create

    def create_and_show(*args, **options) -> ConnectionFile:
        files = create(*args, **options)
        thief.look_at(files.info)
        return files

    monkeypatch.setattr(launcher.ConnectionFile, "create", create_and_show)
    with thief.loot:
        yield thief


@pytest.mark.parametrize("channel", ["shell", "iopub", "control", "hb"])
async def test_kernel_that_ends_without_its_port(thief, channel) -> None:
    thief.channels = [channel]
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("spec/scripted", transport="tcp") as kernel:
            assert (await kernel.execute("say('hello', parent)")).stdout == "hello"
            first, second = thief.launched
            assert kernel.connection_info == second != first


async def test_ipykernel(thief) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("pyimport/kernel", transport="tcp") as kernel:
            assert (await kernel.execute("6 * 7")).text == "42"
            assert len(thief.launched) == 2


@pytest.mark.parametrize("channel", ["shell", "iopub"])
async def test_kernel_that_goes_on_without_its_port(thief, channel) -> None:
    thief.channels = [channel]
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(
            "spec/scripted", transport="tcp", launch_params={"habits": "careless"}
        ) as kernel:
            assert (await kernel.execute("say('hello', parent)")).stdout == "hello"
            assert len(thief.launched) == 2


async def test_somebody_who_takes_every_port(thief) -> None:
    thief.is_interested = lambda launch: True
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(KernelExitedEarly, match="Address"):
        async with run_kernel("spec/scripted", transport="tcp"):
            pytest.fail("it has started")
    assert len(thief.launched) == 6


async def test_kernel_that_ends_for_another_reason_is_launched_once(
    thief, write_kernelspec
) -> None:
    thief.is_interested = lambda launch: False
    write_kernelspec("broken", argv=["python", "-c", "1 / 0", "{connection_file}"])
    with pytest.raises(KernelExitedEarly, match="ZeroDivisionError"):
        async with run_kernel("spec/broken", finder=KernelFinder.from_entrypoints()):
            pytest.fail("it has started")
    assert len(thief.launched) == 1


async def test_thirty_kernels_at_once_of_which_every_second_is_robbed(thief) -> None:
    async def run() -> None:
        async with run_kernel("spec/scripted", transport="tcp") as kernel:
            outputs.append((await kernel.execute("say('hello', parent)")).stdout)

    outputs: list[str] = []
    thief.is_interested = lambda launch: launch <= 30 and launch % 2 == 0
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(run)
    assert outputs == ["hello"] * 30
    assert len(thief.launched) >= 45
