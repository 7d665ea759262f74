"""A notebook is saved while a cell runs, and a program that is killed loses little."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from kernelproto.exceptions import LocalProtocolError
from kernelproto.notebook import (
    CellFinished,
    CellOutput,
    execute_notebook,
    read_notebook,
    saver,
    write_notebook,
)
from kernelproto.notebook.files import replace_file
from kernelproto.notebook.recorder import Recorder
from kernelproto.notebook.saver import Saver
from kernelproto.testing import Exchange

GUARD_SECONDS = 60


class Disk:
    """Replaces files, and tells when that has happened.

    Attributes:
        saves: how often a file was replaced.
        failures: how often that fails before.
    """

    def __init__(self) -> None:
        self.saves = 0
        self.failures = 0
        self._changed = threading.Condition()

    def replace(self, path: Path, data: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is full")
        replace_file(path, data)
        with self._changed:
            self.saves += 1
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        def wait() -> None:
            with self._changed:
                assert self._changed.wait_for(holds, GUARD_SECONDS)

        await anyio.to_thread.run_sync(wait)


@pytest.fixture
def disk(monkeypatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(saver, "replace_file", disk.replace)
    return disk


def texts(path: Path) -> list[str]:
    if not path.exists():
        return []
    cells = read_notebook(path).cells
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]


@pytest.mark.anyio
async def test_running_cell_is_saved(notebook, connected, disk: Disk, tmp_path: Path) -> None:
    nb, path = notebook("say one", "count"), tmp_path / "out.ipynb"

    async def count(exchange: Exchange) -> None:
        for number in range(3):
            exchange.stream(f"{number} ")
            shown = "".join(map("{} ".format, range(number + 1)))
            await disk.until(lambda shown=shown: texts(path) == ["one", shown])

    async with connected() as (fake, client):
        fake.on_execute("count", count)
        result = await execute_notebook(nb, client, save_to=path, autosave_seconds=0.001)

    assert result.status == "ok"
    assert texts(path) == ["one", "0 1 2 "]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.anyio
async def test_saved_output_of_a_running_cell_is_valid(
    notebook, connected, disk: Disk, tmp_path: Path, caplog
) -> None:
    nb, path = notebook("show"), tmp_path / "out.ipynb"

    async def show(exchange: Exchange) -> None:
        exchange.display({"text/plain": {"no": "text"}})
        exchange.stream("shown")
        await disk.until(lambda: texts(path) == ["shown"])
        exchange.clear()

    async with connected() as (fake, client):
        fake.on_execute("show", show)
        await execute_notebook(nb, client, save_to=path, autosave_seconds=0.001)
    assert "repaired" not in caplog.text


@pytest.mark.anyio
async def test_failed_save_while_a_cell_runs_is_logged(
    notebook, connected, disk: Disk, tmp_path: Path, caplog
) -> None:
    nb, path = notebook("wait"), tmp_path / "out.ipynb"

    async def wait(exchange: Exchange) -> None:
        disk.failures = 2
        exchange.stream("waiting")
        await disk.until(lambda: texts(path) == ["waiting"])

    async with connected() as (fake, client):
        fake.on_execute("wait", wait)
        result = await execute_notebook(nb, client, save_to=path, autosave_seconds=0.001)

    assert result.status == "ok"
    assert caplog.text.count("was not saved while a cell runs: the disk is full") == 2


@pytest.mark.anyio
async def test_only_changes_are_saved_while_a_cell_runs(
    notebook, disk: Disk, tmp_path: Path
) -> None:
    nb, recorder = notebook("a"), Recorder(record_timing=False, limit=1000)
    saves = Saver(tmp_path / "a.ipynb", nb, recorder, seconds=0.001, widgets=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(saves.save_regularly)
        await anyio.sleep(0.05)
        assert disk.saves == 0
        recorder.changes += 1
        await disk.until(lambda: disk.saves == 1)
        await anyio.sleep(0.05)
        assert disk.saves == 1
        await saves.finish(nb)
    assert disk.saves == 2


@pytest.mark.anyio
async def test_slow_saves_are_postponed(notebook, disk: Disk, tmp_path: Path) -> None:
    nb, recorder = notebook("a"), Recorder(record_timing=False, limit=1000)
    path = tmp_path / "a.ipynb"
    saves = Saver(path, nb, recorder, seconds=3600, widgets=True)
    always = Saver(path, nb, recorder, seconds=None, widgets=True)
    for each in (saves, always):
        await each.save_after_cell()
        each._duration = 0.02
        recorder.changes += 1
        before = disk.saves
        await each.save_after_cell()
        assert disk.saves - before == (each is always)

    async with anyio.create_task_group() as tasks:
        before = disk.saves
        tasks.start_soon(saves.save_regularly)
        await disk.until(lambda: disk.saves == before + 1)  # and not after an hour
        await saves.finish(nb)


@pytest.mark.anyio
async def test_older_version_is_not_written_last(notebook, disk: Disk, tmp_path: Path) -> None:
    nb, path = notebook("new"), tmp_path / "a.ipynb"
    saves = Saver(path, nb, Recorder(record_timing=False, limit=1), seconds=None, widgets=True)
    await saves.finish(nb)
    saves._write(0, lambda: b"old")
    assert read_notebook(path) == nb


@pytest.mark.anyio
async def test_stream_is_not_saved_while_a_cell_runs(
    notebook, connected, disk: Disk, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    async with connected() as (_, client):
        execution = execute_notebook(
            notebook("say one", "say two"), client, save_to=fifo, autosave_seconds=0.001
        )
        async for event in execution:
            if isinstance(event, CellOutput | CellFinished):
                await anyio.sleep(0.02)
                assert disk.saves == 0
    os.close(reader)
    assert disk.saves == 1


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_time_between_saves_is_positive(seconds: float, notebook) -> None:
    with pytest.raises(LocalProtocolError, match="autosave_seconds must be above 0, or None"):
        execute_notebook(notebook("a"), save_to="a.ipynb", autosave_seconds=seconds)


_PROGRAM = """
import sys, anyio
from pathlib import Path
from kernelproto.notebook import execute_notebook, read_notebook
from kernelproto.testing import FakeKernel

async def count(exchange):
    for number in range(10**9):
        exchange.stream(f"line {number}\\n")
        await anyio.sleep(0.001)

async def main():
    source, target = map(Path, sys.argv[1:])
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("count", count)
        async for event in execute_notebook(
            read_notebook(source), client, save_to=target, autosave_seconds=0.01
        ):
            if target.exists() and "line 99" in target.read_text():
                print("saved", flush=True)

anyio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_program_leaves_the_outputs_of_the_running_cell(notebook, tmp_path: Path) -> None:
    source, target = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    write_notebook(notebook("'first'", "count"), source)
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, source, target], stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"saved\n"
        program.kill()

    lines = texts(target)[1].splitlines()
    assert len(lines) >= 100
    assert lines == [f"line {number}" for number in range(len(lines))]
