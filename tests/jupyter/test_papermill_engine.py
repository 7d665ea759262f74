"""papermill itself with the engine, and real kernels."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill import PapermillExecutionError, execute_notebook

pytestmark = pytest.mark.usefixtures("no_leaks", "no_server")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., nbformat.NotebookNode]:
    """Give a function that executes cells and returns the notebook that was written."""

    def execute(*cells: str | nbformat.NotebookNode, **options):
        nb = new_notebook(
            cells=[new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells],
            metadata={
                "kernelspec": {"name": "fork/kernel", "display_name": "", "language": "python"}
            },
        )
        nbformat.write(nb, tmp_path / "in.ipynb")
        options.setdefault("progress_bar", False)
        try:
            execute_notebook(
                tmp_path / "in.ipynb", tmp_path / "out.ipynb", engine_name="kernelproto", **options
            )
        finally:
            written = nbformat.read(tmp_path / "out.ipynb", 4)
        return written

    return execute


def statuses(nb: nbformat.NotebookNode) -> list[str]:
    return [cell.metadata.papermill["status"] for cell in nb.cells]


def test_notebook(run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "papermill")
    out = io.StringIO()
    nb = run(
        new_code_cell("a = 1", metadata={"tags": ["parameters"]}),
        new_markdown_cell("text"),
        "print('hello'); import os; (a, os.getcwd())",
        parameters={"a": 2},
        cwd=tmp_path,
        log_output=True,
        stdout_file=out,
    )
    assert nb.cells[-1].outputs[-1].data["text/plain"] == str((2, str(tmp_path)))
    assert statuses(nb) == ["completed"] * 4
    assert all(cell.metadata.papermill["duration"] is not None for cell in nb.cells)
    assert nb.metadata.papermill["exception"] is None
    assert nb.metadata.language_info["name"] == "python"
    assert out.getvalue() == "hello\n"
    assert "hello\n" in caplog.messages
    assert str((2, str(tmp_path))) in caplog.messages


def test_error(run, tmp_path: Path) -> None:
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
        run("1", "1 / 0", "2")
    nb = nbformat.read(tmp_path / "out.ipynb", 4)
    executed = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.metadata.papermill["status"] for cell in executed] == [
        "completed",
        "failed",
        "pending",
    ]


def test_allowed_error(run, tmp_path: Path) -> None:
    with pytest.raises(PapermillExecutionError):  # papermill's own policy, after the last cell
        run(new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}), "2")
    nb = nbformat.read(tmp_path / "out.ipynb", 4)
    assert nb.cells[-1].metadata.papermill["status"] == "completed"
    assert nb.cells[-1].outputs[0].data["text/plain"] == "2"


def test_timeout(run) -> None:
    with pytest.raises(CellTimeoutError, match="interrupted after"):
        run("import time; time.sleep(1000)", execution_timeout=1)


def test_kernel_dies(run) -> None:
    with pytest.raises(DeadKernelError, match="SIGKILL"):
        run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_unknown_option(run) -> None:
    with pytest.raises(TypeError, match="takes no option no_such"):
        run("1", no_such=True)


def test_notebook_is_saved_while_a_cell_runs(run, tmp_path: Path) -> None:
    """The cell ends when its own output is in the file."""
    nb = run(
        "word = 'be' + 'gun'\nprint(word, flush=True)\nfrom pathlib import Path\n"
        "while word not in Path('out.ipynb').read_text(): print('.', flush=True)",
        cwd=tmp_path,
        autosave_cell_every=0.01,
    )
    assert statuses(nb) == ["completed"]


def test_progress(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # no thread of tqdm
    bar = io.StringIO()
    run("1", new_markdown_cell("text"), "2", progress_bar={"file": bar})
    assert "3/3" in bar.getvalue()
