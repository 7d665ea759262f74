"""How long does a notebook take, from its file to the executed notebook?

Starting and shutting down the kernel is part of it. All tools run as libraries, already imported.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from benchmarks.exceptions import Skipped
from benchmarks.lab import Lab, Sizes
from benchmarks.question import Contender, Goal, Question
from kernelproto.notebook import execute_notebook, read_notebook, write_notebook

SMALL = ["x = 1", "x += 1", "print(x)", "x"]

MIXED = [
    "import json, time",
    "print('text')",
    "import sys; print('error', file=sys.stderr)",
    "[n * n for n in range(100)]",
    "from IPython.display import HTML, Image, Markdown, clear_output, display",
    "display(HTML('<table>' + '<tr><td>1</td></tr>' * 100 + '</table>'))",
    "for n in range(100): print(n)",
    "for n in range(20): display(n)",
    "handle = display('first', display_id=True)",
    "for n in range(20): handle.update(n)",
    "for n in range(20): clear_output(wait=True); print(n)",
    "Image(bytes(20_000), format='png')",
]


def _by_kernelproto(kernel: str, source: Path) -> Any:
    async def program() -> Any:
        return (await execute_notebook(read_notebook(source), kernel_type=kernel)).notebook

    return anyio.run(program)


def _by_nbclient(source: Path) -> Any:
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.read(source, as_version=4)
    return NotebookClient(nb, kernel_name="python3").execute()


def _by_papermill(source: Path) -> Any:
    import papermill

    return papermill.execute_notebook(source, None, kernel_name="python3", progress_bar=False)


def _seconds(tool: Callable[[Path], Any], needs: str, cells: Sequence[str], lab: Lab) -> float:
    if importlib.util.find_spec(needs) is None:
        raise Skipped(f"{needs} is not installed")
    source = lab.folder / f"{len(cells)}.ipynb"
    if not source.exists():
        nbformat = importlib.import_module("nbformat.v4")
        nb = nbformat.new_notebook(cells=[nbformat.new_code_cell(cell) for cell in cells])
        write_notebook(nb, source)
    began = time.perf_counter()
    nb = tool(source)
    took = time.perf_counter() - began
    counts = [cell["execution_count"] for cell in nb["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(cells) + 1)), "not all cells were executed"
    return took


_TOOLS: Sequence[tuple[str, Callable[[Path], Any], str]] = [
    ("kernelproto spec/python3", partial(_by_kernelproto, "spec/python3"), "kernelproto"),
    ("kernelproto pyimport/kernel", partial(_by_kernelproto, "pyimport/kernel"), "kernelproto"),
    ("kernelproto fork/kernel", partial(_by_kernelproto, "fork/kernel"), "kernelproto"),
    ("nbclient", _by_nbclient, "nbclient"),
    ("papermill", _by_papermill, "papermill"),
]


def _question(name: str, title: str, cells: Sequence[str]) -> Question:
    return Question(
        name=f"notebook.{name}",
        title=title,
        unit="s",
        contenders=[
            Contender(tool, partial(_seconds, work, needs, cells)) for tool, work, needs in _TOOLS
        ],
        goals=[
            Goal(subject=tool, baseline="nbclient", limit=limit)
            for tool, limit in [
                ("kernelproto spec/python3", 1.0),
                ("kernelproto pyimport/kernel", 1.0),
                ("kernelproto fork/kernel", 0.5),
            ]
        ],
        rounds=Sizes(5, 2, 1),
    )


QUESTIONS = [
    _question("small", "A notebook of 200 small cells", SMALL * 50),
    _question("mixed", "A notebook of 24 cells: text, displays, updates, an image", MIXED * 2),
]
