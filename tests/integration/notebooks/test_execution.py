"""A notebook on a kernel of its own: however it ends, nothing is left behind and nothing lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from nbformat import v4

from kernelproto import KernelDied
from kernelproto.notebook import CellOutput, execute_notebook

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


def notebook(*cells: str) -> Any:
    return v4.new_notebook(cells=[v4.new_code_cell(code) for code in cells])


async def test_a_kernel_that_is_killed_is_noticed(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    os.mkfifo(heard)
    last_words = f"print('last words', flush=True); open({str(heard)!r}).close()"
    nb = notebook(f"{last_words}; import os; os.kill(os.getpid(), 9)", "print('never')")

    async def execute() -> None:
        async with execute_notebook(nb) as execution:
            async for event in execution:
                if isinstance(event, CellOutput):
                    await to_thread.run_sync(heard.write_bytes, b"")

    with anyio.fail_after(GUARD_SECONDS), pytest.raises(KernelDied) as caught:
        await execute()
    assert caught.value.returncode == -9
    assert [output.text for output in nb.cells[0].outputs] == ["last words\n"]


async def test_a_cell_that_takes_too_long_tells_where_it_was() -> None:
    nb = notebook("import time\n\ntime.sleep(1000)", "print('goes on')")

    with anyio.fail_after(GUARD_SECONDS):
        result = await execute_notebook(nb, timeout=0.5, allow_errors=True)

    assert [cell.status for cell in result.cells] == ["timeout", "ok"]
    assert nb.cells[0].outputs[-1].ename == "KeyboardInterrupt"
    assert "time.sleep" in "".join(nb.cells[0].outputs[-1].traceback)
    assert nb.cells[1].outputs[0].text == "goes on\n"


async def test_cancelled_it_leaves_nothing_behind() -> None:
    nb = notebook("print('begun', flush=True)\nimport time\ntime.sleep(1000)")
    begun = anyio.Event()

    async def wait_and_cancel(scope: anyio.CancelScope) -> None:
        await begun.wait()
        scope.cancel()

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_and_cancel, tasks.cancel_scope)
            async with execute_notebook(nb) as execution:
                async for event in execution:
                    if isinstance(event, CellOutput):
                        begun.set()

    assert nb.cells[0].outputs[0].text == "begun\n"
