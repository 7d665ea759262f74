"""The session of the history is opened late, but as if it had been opened at the start."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from textwrap import dedent

import anyio
import pytest

from kernelproto import Kernel, run_kernel
from tests.launch.programs.behaviours import run, text_of

pytestmark = pytest.mark.anyio

VARIABLE = "KERNELPROTO_STOCK_IPYKERNEL"

# SQLite waits so long for a locked database, not for five seconds.
CONFIGURATION = "c.HistoryManager.connection_options = {'check_same_thread': False, 'timeout': 0.1}"

READ_ONLY = """
c.HistoryManager.connection_options = {"check_same_thread": False, "uri": True}
c.HistoryManager.hist_file = "file:%s?mode=ro"
"""

# Without the hook, with it, and with it alone.
OFF = {"stock": "all", "fast": "", "unpaced": "history"}

Start = Callable[[], AbstractAsyncContextManager[Kernel]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on one event loop, because the kernel does not depend on it."""
    return "asyncio"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    folder = tmp_path / "profile_default"
    folder.mkdir()
    (folder / "ipython_kernel_config.py").write_text(CONFIGURATION)
    return folder


@pytest.fixture(params=OFF)
def start(request: pytest.FixtureRequest, profile: Path, runtime_dir) -> Start:
    env = {VARIABLE: OFF[request.param], "IPYTHONDIR": str(profile.parent)}

    @asynccontextmanager
    async def start() -> AsyncIterator[Kernel]:
        async with run_kernel("fork/kernel", launch_params={"env": env}) as kernel:
            yield kernel

    return start


def rows(profile: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(profile / "history.sqlite")) as database:
        return database.execute(query).fetchall()


async def test_sessions_and_their_inputs(start: Start, profile: Path) -> None:
    for _ in range(2):
        async with start() as kernel:
            await kernel.execute("6 * 7")
            await kernel.execute("8 * 9")
    assert rows(profile, "SELECT session, line, source FROM history ORDER BY session, line") == [
        (session, line, source)
        for session in (1, 2)
        for line, source in ((1, "6 * 7"), (2, "8 * 9"))
    ]
    sessions = "SELECT session, num_cmds, end NOT NULL FROM sessions ORDER BY session"
    assert rows(profile, sessions) == [(1, 2, 1), (2, 2, 1)]


async def test_session_without_an_input(start: Start, profile: Path) -> None:
    async with start():
        pass
    assert rows(profile, "SELECT session, num_cmds FROM sessions") == [(1, 0)]


async def test_session_is_in_the_file_while_the_kernel_is_idle(
    start: Start, request: pytest.FixtureRequest
) -> None:
    if "unpaced" in request.node.name:
        pytest.skip("IPython's own thread waits for the first input")
    code = """
        import sqlite3, time
        found, until = [], time.monotonic() + 20
        with sqlite3.connect(str(get_ipython().history_manager.hist_file)) as database:
            while not found and time.monotonic() < until:
                time.sleep(0.02)
                found = database.execute("SELECT session FROM sessions").fetchall()
        print(found)
        """
    async with start() as kernel:
        assert text_of(await run(kernel, code, silent=True)) == "[(1,)]\n"


async def test_number_of_the_session_before_the_first_input(start: Start) -> None:
    async with start() as kernel:
        code = "print(get_ipython().history_manager.session_number)"
        assert text_of(await run(kernel, code, silent=True)) == "1\n"


async def test_session_is_in_the_file_before_a_fork(start: Start, profile: Path) -> None:
    code = """
        import os
        manager = get_ipython().history_manager
        pid = os.fork()
        if pid == 0:
            os._exit(manager.session_number)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), manager.session_number)
        """
    async with start() as kernel:
        outputs = await run(kernel, code, silent=True)
        assert text_of(outputs) == "1 1\n"
        await kernel.execute("6 * 7")
    assert rows(profile, "SELECT session FROM sessions") == [(1,)]
    assert rows(profile, "SELECT session, source FROM history") == [(1, "6 * 7")]


async def test_new_session(start: Start, profile: Path) -> None:
    async with start() as kernel:
        await kernel.execute("get_ipython().history_manager.reset()")
        await kernel.execute("6 * 7")
        assert (await kernel.execute("get_ipython().history_manager.session_number")).text == "2"
    assert [line for _, line in rows(profile, "SELECT session, source FROM history")][:2] == [
        "get_ipython().history_manager.reset()",
        "6 * 7",
    ]


async def remembers(kernel: Kernel) -> None:
    """Check that the history is in memory, and complete."""
    await kernel.execute("6 * 7")
    await kernel.execute("8 * 9")
    tail = (await kernel.history("tail", n=5)).history
    assert [list(entry)[1:] for entry in tail] == [[1, "6 * 7"], [2, "8 * 9"]]
    code = "m = get_ipython().history_manager; print(m.hist_file, m.session_number, m.using_thread)"
    assert text_of(await run(kernel, code)) == ":memory: 1 False\n"
    assert text_of(await run(kernel, "%history -n 1-2")) == "   1: 6 * 7\n   2: 8 * 9\n"


async def test_file_that_another_program_has_locked(start: Start, profile: Path) -> None:
    async with start() as kernel:
        await kernel.execute("0")
    with closing(sqlite3.connect(profile / "history.sqlite")) as database:
        database.execute("BEGIN IMMEDIATE")
        with anyio.fail_after(60):
            async with start() as kernel:
                await remembers(kernel)
        database.execute("COMMIT")
    assert rows(profile, "SELECT session, source FROM history") == [(1, "0")]


async def test_thread_that_finds_the_file_locked_ends(start: Start, profile: Path) -> None:
    code = """
        import threading, time
        manager, until = get_ipython().history_manager, time.monotonic() + 20
        def is_saving():
            return any("HistorySaving" in thread.name for thread in threading.enumerate())
        while is_saving() and time.monotonic() < until:
            time.sleep(0.01)
        print(is_saving(), manager.hist_file)
        """
    async with start() as kernel:
        await kernel.execute("0")
    with closing(sqlite3.connect(profile / "history.sqlite")) as database:
        database.execute("BEGIN IMMEDIATE")
        async with start() as kernel:
            assert text_of(await run(kernel, code)) == "False :memory:\n"
            source = dedent(code).strip()
            assert (await kernel.history("tail", n=1)).history[0][2].strip() == source
        database.execute("COMMIT")


async def test_no_cell_waits_while_inputs_are_written(
    start: Start, profile: Path, request: pytest.FixtureRequest
) -> None:
    if "stock" in request.node.name:
        pytest.skip("IPython's cells wait for the file")
    configuration = profile / "ipython_kernel_config.py"
    configuration.write_text(CONFIGURATION.replace("0.1", "600"))
    is_taken = """
        import time
        manager, until = get_ipython().history_manager, time.monotonic() + 20
        while manager.db_input_cache and time.monotonic() < until:
            time.sleep(0.01)
        print(manager.db_input_cache)
        """
    async with start() as kernel:
        await kernel.execute("0")
        assert text_of(await run(kernel, is_taken, silent=True)) == "[]\n"
        await kernel.history("tail", n=1)  # waits until the first input is in the file
        with closing(sqlite3.connect(profile / "history.sqlite")) as database:
            database.execute("BEGIN IMMEDIATE")
            await kernel.execute("1")
            assert text_of(await run(kernel, is_taken, silent=True)) == "[]\n"
            with anyio.fail_after(60):
                await kernel.execute("2")
            found = database.execute("SELECT source FROM history").fetchall()
            database.execute("COMMIT")
        assert found == [("0",)]
        tail = (await kernel.history("tail", n=5)).history
        assert [entry[2] for entry in tail] == ["0", "1", "2"]
    assert rows(profile, "SELECT source FROM history") == [("0",), ("1",), ("2",)]


async def test_file_that_cannot_be_written(start: Start, profile: Path) -> None:
    async with start() as kernel:
        await kernel.execute("0")
    configuration = profile / "ipython_kernel_config.py"
    configuration.write_text(READ_ONLY % (profile / "history.sqlite"))
    async with start() as kernel:
        await remembers(kernel)
    assert rows(profile, "SELECT session, source FROM history") == [(1, "0")]
