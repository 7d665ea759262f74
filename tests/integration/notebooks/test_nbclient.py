"""The same notebooks, executed here and by nbclient: output for output the same.

What is left out is what differs whenever a notebook is executed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from anyio import to_thread

from kernelproto.notebook import NotebookResult, execute_notebook, read_notebook
from tests.integration.notebooks.comparable import comparable

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left")]

GUARD_SECONDS = 100
HERE = Path(__file__).parent
NOTEBOOKS = {path.stem: path for path in sorted(HERE.glob("*.ipynb"))}

# The kernel of each notebook's own choice, and another one. Loading matplotlib takes longer than
# all the rest, and a figure is the same on every event loop.
KERNELS = {"asyncio": None, "trio": "pyimport/kernel"}
SLOW = {"images"}


@cache
def executed_by_nbclient() -> dict[str, Any]:
    """Return the notebooks as nbclient leaves them, all of them executed side by side."""
    with TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, HERE / "by_nbclient.py", folder, *NOTEBOOKS.values()],
            check=True,
            capture_output=True,
            timeout=GUARD_SECONDS,
        )
        return {path.stem: json.loads(path.read_text()) for path in Path(folder).iterdir()}


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_side_by_side_they_come_to_the_same(anyio_backend: str) -> None:
    kernel = KERNELS[anyio_backend]
    names = NOTEBOOKS.keys() - (SLOW if kernel else set())
    results: dict[str, NotebookResult] = {}

    async def execute(name: str) -> None:
        results[name] = await execute_notebook(read_notebook(NOTEBOOKS[name]), kernel_type=kernel)

    expected = await to_thread.run_sync(executed_by_nbclient)
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(execute, name)

    assert results.keys() == names
    assert {name: result.status for name, result in results.items() if result.failed} == {
        "failing": "error"
    }
    for name, result in results.items():
        ours, theirs = comparable(result.notebook), comparable(expected[name])
        for index, (cell, their_cell) in enumerate(
            zip(ours.pop("cells"), theirs.pop("cells"), strict=True)
        ):
            assert cell == their_cell, f"cell {index} of {name}"
        assert ours == theirs, f"the metadata of {name}"
