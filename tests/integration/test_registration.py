"""Kernels that choose their own ports, from the launch to the last client."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from kernelproto import KernelExitedEarly, connect_kernel, run_kernel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

SCRIPT = Path(__file__).with_name("share") / "kernels" / "scripted" / "kernel.py"


@pytest.fixture(autouse=True)
def registering_kernel(write_kernelspec) -> None:
    """Install ``spec/registering``, which is ``spec/scripted`` with a kernelspec that says so."""
    write_kernelspec(
        "registering",
        argv=["python", "-I", str(SCRIPT), "{connection_file}", "{habits}"],
        metadata={"supported_encryption": ["curve"]},
        kernel_protocol_version="5.6",
    )


@pytest.mark.parametrize("encryption", ["auto", "disabled"])
async def test_it_is_a_kernel_like_any_other(encryption) -> None:
    async with run_kernel(
        "spec/registering", encryption=encryption, launch_params={"habits": ""}
    ) as kernel:
        info = kernel.connection_info
        assert (info.transport, info.ip) == ("tcp", "127.0.0.1")
        assert info.encrypted is (encryption == "auto")
        assert (await kernel.execute("say('hello', parent)")).stdout == "hello"
        async with connect_kernel(kernel.manager.connection_file) as client:
            assert client.connection_info == info
            assert (await client.execute("say('hello', parent)")).stdout == "hello"


async def test_ten_at_once_share_no_port() -> None:
    taken: list[int] = []

    async def run_one() -> None:
        async with run_kernel("spec/registering", launch_params={"habits": ""}) as kernel:
            info = kernel.connection_info
            taken.extend([info.shell_port, info.iopub_port, info.hb_port])
            all_here.append(kernel.kernel_id)
            if len(all_here) == 10:
                everybody.set()
            await everybody.wait()

    all_here: list[str] = []
    everybody = anyio.Event()
    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(run_one)
    assert len(taken) == len(set(taken)) == 30


async def test_kernel_that_cannot_register_says_so(write_kernelspec) -> None:
    code = "import json, sys; json.load(open(sys.argv[1]))['shell_port']"
    write_kernelspec(
        "boastful",
        argv=[sys.executable, "-c", code, "{connection_file}"],
        kernel_protocol_version="5.6",
    )
    with pytest.raises(KernelExitedEarly, match="KeyError: 'shell_port'"):
        async with run_kernel("spec/boastful"):
            raise AssertionError("it is ready")
