"""nbclient's and nbconvert's programs with another import, and real kernels."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert.preprocessors import ExecutePreprocessor as NbconvertPreprocessor
from nbformat.v4 import new_code_cell, new_notebook

from kernelproto.jupyter import NotebookClient
from kernelproto.jupyter.client import AsyncKernelManager
from kernelproto.jupyter.preprocessor import ExecutePreprocessor

pytestmark = pytest.mark.usefixtures("no_leaks", "no_server")


@pytest.fixture(autouse=True)
def own(kernelspec) -> None:
    """Install a kernelspec of the running Python."""
    kernelspec("own", ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"])


def notebook(*cells: str) -> nbformat.NotebookNode:
    return new_notebook(cells=[new_code_cell(cell) for cell in cells])


@pytest.mark.asyncio
async def test_hooks() -> None:
    called: list[str] = []

    def hook(name: str):
        return lambda **_: called.append(name)

    names = [
        "on_notebook_start",
        "on_notebook_complete",
        "on_cell_start",
        "on_cell_execute",
        "on_cell_executed",
        "on_cell_complete",
    ]
    hooks: dict[str, Any] = {name: hook(name) for name in names}
    client = NotebookClient(notebook("6 * 7"), kernel_name="own", **hooks)
    nb = await client.async_execute(stdout=-3)
    assert nb.cells[0].outputs[0].data["text/plain"] == "42"
    assert set(called) == set(names)


@pytest.mark.asyncio
async def test_error_and_dead_kernel() -> None:
    client = NotebookClient(notebook("1 / 0"), kernel_name="own")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        await client.async_execute(stdout=-3)
    client = NotebookClient(notebook("import os; os._exit(3)"), kernel_name="own")
    with pytest.raises(DeadKernelError, match="exit status 3"):
        await client.async_execute(stdout=-3)


def test_preprocessor() -> None:
    preprocessor = ExecutePreprocessor(kernel_name="own")
    assert isinstance(preprocessor, NbconvertPreprocessor)
    assert preprocessor.kernel_manager_class is AsyncKernelManager
