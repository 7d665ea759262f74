"""xeus is the first whose kernels can register their ports."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kernelproto import connect_kernel, run_kernel
from tests.integration.installing import installed_kernelspec

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
def registering_kernel(runtime_dir: Path) -> None:
    """Install ``spec/registering``, which is xpython with a kernelspec that says so."""
    # Its own kernelspec does not say which version it speaks.
    kernelspec = json.loads(installed_kernelspec("xpython").read_text())
    kernelspec |= {"kernel_protocol_version": "5.6"}
    folder = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", "registering")
    folder.mkdir(parents=True)
    folder.joinpath("kernel.json").write_text(json.dumps(kernelspec))


@pytest.mark.usefixtures("registering_kernel")
async def test_xpython_registers() -> None:
    async with run_kernel("spec/registering") as kernel:
        assert kernel.connection_info.shell_port >= 49_152  # where xeus looks for ports
        assert (await kernel.execute("6 * 7")).text == "42"
        async with connect_kernel(kernel.manager.connection_file) as client:
            assert (await client.execute("print(6 * 7)")).stdout == "42\n"
