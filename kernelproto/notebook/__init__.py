"""Executes notebooks, cell by cell. Needs the extra ``notebook``.

Await the whole execution, or iterate over the events::

    nb = read_notebook("in.ipynb")
    result = await execute_notebook(nb, save_to="out.ipynb", parameters={"year": 2026})
    result.raise_for_error()

    async with execute_notebook(nb, timeout=60, allow_errors=True) as execution:
        async for event in execution:
            match event:
                case CellStarted(number=number, total=total):
                    print(f"cell {number} of {total}")
                case CellOutput(output=Stream(text=text)):
                    print(text, end="")
                case CellFinished(status=status, duration=seconds):
                    print(f"{status} after {seconds:.1f} s")

The notebook is changed in place. To execute several notebooks at the same time, use a task group;
each execution starts its own kernel.
"""

from kernelproto.notebook.defaults import Parameter, inspect_parameters
from kernelproto.notebook.events import CellEvent, CellFinished, CellOutput, CellStarted
from kernelproto.notebook.execution import NotebookExecution, execute_notebook
from kernelproto.notebook.files import read_notebook, write_notebook
from kernelproto.notebook.parameters import inject_parameters
from kernelproto.notebook.result import NotebookResult

__all__ = [
    "CellEvent",
    "CellFinished",
    "CellOutput",
    "CellStarted",
    "NotebookExecution",
    "NotebookResult",
    "Parameter",
    "execute_notebook",
    "inject_parameters",
    "inspect_parameters",
    "read_notebook",
    "write_notebook",
]
