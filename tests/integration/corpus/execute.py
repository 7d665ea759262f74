"""Executes one notebook with one tool: python execute.py TOOL SOURCE TARGET KERNEL.

All tools but papermill, which cannot, go on after a failing cell. The exit status is 3 if the tool
refuses the notebook.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CELL_SECONDS = 60


def by_kernelproto(source: str, kernel: str) -> Any:
    import anyio

    from kernelproto.notebook import execute_notebook, read_notebook

    async def execute() -> Any:
        nb = read_notebook(source)
        result = await execute_notebook(
            nb, kernel_type=kernel, timeout=CELL_SECONDS, allow_errors=True
        )
        return result.notebook

    return anyio.run(execute)


def by_nbclient(source: str, kernel: str) -> Any:
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.read(source, as_version=4)
    client = NotebookClient(nb, timeout=CELL_SECONDS, kernel_name=kernel, allow_errors=True)
    return client.execute()


def by_papermill(source: str, kernel: str) -> Any:
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    with TemporaryDirectory() as folder:
        target = Path(folder, "executed.ipynb")
        with suppress(PapermillExecutionError):
            papermill.execute_notebook(
                source,
                target,
                kernel_name=kernel,
                execution_timeout=CELL_SECONDS,
                progress_bar=False,
            )
        nb = nbformat.read(target, as_version=4)
    nb["cells"] = [cell for cell in nb["cells"] if not is_banner(cell)]
    for number, cell in enumerate(nb["cells"], 1):
        if any(output["output_type"] == "error" for output in cell.get("outputs", [])):
            del nb["cells"][number:]  # they were not executed
            break
    return nb


def is_banner(cell: Any) -> bool:
    """Return whether a tool has added the cell to show an error."""
    return "papermill-error-cell-tag" in cell["metadata"].get("tags", [])


TOOLS = {"kernelproto": by_kernelproto, "nbclient": by_nbclient, "papermill": by_papermill}


def main(tool: str, source: str, target: str, kernel: str) -> None:
    """Execute the notebook; write it as JSON, as the tool returns it."""
    try:
        nb = TOOLS[tool](source, kernel)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(3)
    nb["cells"] = [cell for cell in nb["cells"] if not is_banner(cell)]
    Path(target).write_text(json.dumps(nb), "utf-8")


main(*sys.argv[1:])
