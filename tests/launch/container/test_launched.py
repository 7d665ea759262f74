"""Kernels in containers that are found by the ids of their launches."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto import KernelFinder, adopt_kernel
from kernelproto.exceptions import KernelInUse
from kernelproto.launch import ContainerProvider
from kernelproto.launch.launched import find_launched
from kernelproto.launch.leftovers.kernel_folder import FolderRecord, KernelFolder
from kernelproto.launch.process.process_id import ProcessId
from tests.integration.engine_kills import kill_at
from tests.launch.container.podman import Podman
from tests.launch.found_kernels import check_kernel_of_a_launch, check_kernels_of_a_pool

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 120


@pytest.fixture
def base() -> Iterator[str]:
    """Give the path of a folder for kernels, short enough for sockets; it must be gone again."""
    with tempfile.TemporaryDirectory(prefix="kp-") as folder:
        yield f"{folder}/c"
        assert os.listdir(folder) == []


async def test_pool_with_a_registry_keeps_kernels(engine: Podman, tmp_path: Path) -> None:
    provider = engine.provider(python=engine.kernel())
    with anyio.fail_after(GUARD_SECONDS):
        await check_kernels_of_a_pool(provider, "container/python", tmp_path)


async def test_kernel_is_found_by_its_id(engine: Podman) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        await check_kernel_of_a_launch(engine.provider(), "container/python")


@pytest.mark.parametrize("step", ["made", "known"])
async def test_kernel_of_a_killed_program_is_found_by_its_id(
    engine: Podman, base: str, step: str
) -> None:
    config = {
        "engine": engine.program,
        "engine_options": engine.options,
        "folder": base,
        "kernels": {"short": msgspec.to_builtins(engine.kernel())},
    }
    provider = ContainerProvider()
    provider.load_config(config)
    if engine.program != "podman":
        pytest.skip("only calls of podman are interrupted")
    with anyio.fail_after(GUARD_SECONDS):
        params = {"listed_as": "mine"}
        await anyio.to_thread.run_sync(kill_at, step, "container", config, params)
        finder = KernelFinder([provider])
        handle = await find_launched(finder, "container/short", "mine")
        assert handle is not None
        async with adopt_kernel(handle, finder=finder) as kernel:
            assert (await kernel.execute("6 * 7")).text == "42"


async def test_launch_without_a_container(engine: Podman, base: str) -> None:
    provider = ContainerProvider(
        {"python": engine.kernel()},
        engine=engine.program,
        engine_options=engine.options,
        folder=base,
    )
    this = ProcessId.of(os.getpid())
    record = FolderRecord(
        kernel_id=str(uuid.uuid4()),
        kernel_type="container/python",
        owner=this,
        detached=True,
        command=("python",),
        interrupt_mode="signal",
        place="kernelproto-none",
        listed_as="mine",
    )
    folder = KernelFolder.create(base, record)
    with anyio.fail_after(GUARD_SECONDS):
        with pytest.raises(KernelInUse, match="which is this program"):
            await provider.find_launched("python", "mine")
        ended = msgspec.structs.replace(this, started="0")
        folder.write_record(msgspec.structs.replace(record, owner=ended))
        assert await provider.find_launched("python", "mine") is None
