from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernelproto import KernelPool, run_kernel
from kernelproto.cli.inventory import find_running_kernels
from kernelproto.cli.main import main
from kernelproto.cli.stop import choose
from kernelproto.launch.leftovers.running import read_connection_file


@pytest.mark.anyio
async def test_kernels_of_a_pool_have_the_ids_that_it_gives_them() -> None:
    async with KernelPool(kernel_type="fork/kernel") as pool:
        kernel = await pool.get("ada")
        (found,) = find_running_kernels()
        assert found.kernel_id == kernel.kernel_id == pool.kernels()[0].kernel_id
        assert choose(kernel.kernel_id[:8], [found]) is found
        assert read_connection_file(kernel.kernel_id[:8]) == kernel.connection_info

        await kernel.restart()
        (found,) = find_running_kernels()
        assert found.kernel_id == kernel.kernel_id
        assert read_connection_file(kernel.kernel_id) == kernel.connection_info


@pytest.mark.anyio
async def test_kernel_keeps_its_id_when_it_is_restarted() -> None:
    async with run_kernel("fork/kernel") as kernel:
        await kernel.restart()
        assert [found.kernel_id for found in find_running_kernels()] == [kernel.kernel_id]


def test_files_that_are_no_connection_files(runtime_dir: Path, capsys, caplog) -> None:
    os.mkfifo(runtime_dir / "kernel-pipe.json")
    (runtime_dir / "kernel-zero.json").symlink_to("/dev/zero")
    assert main(["ps"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["stop", "--all"]) == 0
    assert len(list(runtime_dir.iterdir())) == 2
