"""A kernel that leaves early loses nothing that the interpreter would have written at its end."""

from __future__ import annotations

import gzip
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

from kernelproto import connect_kernel, run_kernel
from kernelproto.launch.programs import early_exit, ipykernel
from tests.launch.process.forks import evaluate, finder

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left")]

KERNEL_TYPES = pytest.mark.parametrize("kernel_type", ["pyimport/kernel", "fork/kernel"])
ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])

# An object with a finalizer that only the finalization of the interpreter calls.
WITNESS = """
import atexit, gc, os, sys, threading, zmq

class Witness:
    __module__ = "zmq"
    def __del__(self, open=open):
        open("finalized", "w").close()

zmq.witness = Witness()
"""

# Each piece leaves "text" in the file with its name.
WRITERS = {
    "in_globals": 'in_globals = open("in_globals", "w"); in_globals.write("text")',
    "in_a_cycle": """
        gc.disable()  # a collection closes the file before it has written the buffer
        cycle = [open("in_a_cycle", "w")]
        cycle[0].write("text")
        cycle.append(cycle)
        del cycle
        """,
    "in_an_installed_module": """
        zmq.file = open("in_an_installed_module", "wb")
        zmq.file.write(b"text")
        """,
    "in_a_daemon": """
        def hold():
            file = open("in_a_daemon", "w")
            file.write("text")
            begun.set()
            threading.Event().wait()

        begun = threading.Event()
        threading.Thread(target=hold, daemon=True).start()
        begun.wait()
        """,
    "in_a_thread": """
        def write_late():
            threading.main_thread().join()
            file = open("in_a_thread", "w")
            file.write("text")

        threading.Thread(target=write_late).start()
        """,
    "in_c": """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        libc.fputs(b"text", ctypes.c_void_p(libc.fopen(b"in_c", b"w")))
        """,
    "at_the_exit_of_c": """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.strdup.restype = ctypes.c_void_p
        command = libc.strdup(b"printf text > at_the_exit_of_c")
        libc.__cxa_atexit(libc.system, ctypes.c_void_p(command), None)
        """,
    "at_exit": """
        @atexit.register
        def write_at_exit(file=open("at_exit", "w")):
            file.write("text")
        """,
    "compressed": """
        import gzip
        compressed = gzip.open("compressed", "wt")
        compressed.write("text")
        """,
    "by_a_process": """
        import multiprocessing

        def wait_and_write():
            os.setsid()  # ipykernel ends the processes of its own session
            ready.set()
            go_on.wait()
            with open("by_a_process", "w") as file:
                file.write("text")

        context = multiprocessing.get_context("fork")
        ready, go_on = context.Event(), context.Event()
        process = context.Process(target=wait_and_write)
        process.start()
        ready.wait()
        atexit.register(go_on.set)
        """,
}


@ONE_LOOP
@KERNEL_TYPES
@pytest.mark.parametrize("variable", ["1", "0"])
async def test_nothing_is_lost(tmp_path: Path, kernel_type: str, variable: str) -> None:
    env = {early_exit.VARIABLE: variable}
    # Python's finalization does not write these files.
    lost = {"in_a_cycle", "in_a_daemon"} if variable == "0" else set()
    pieces = {name: code for name, code in WRITERS.items() if name not in lost}
    async with run_kernel(kernel_type, cwd=tmp_path, env=env) as kernel:
        for code in (WITNESS, *pieces.values(), "atexit.register(lambda: 1 / 0)"):
            (await kernel.execute(dedent(code))).raise_for_error()
    assert await kernel.manager.wait() == 0
    with gzip.open(tmp_path / "compressed", "rt") as file:
        (tmp_path / "compressed").write_text(file.read())
    assert {name: (tmp_path / name).read_text() for name in pieces} == dict.fromkeys(pieces, "text")
    assert (tmp_path / "finalized").exists() is (variable == "0")


MINE = """
class Writing:
    def __del__(self):
        open("by_a_module", "w").write("text")

thing = Writing()
"""

COVERAGE = """
import coverage, os
os.environ["COVERAGE_PROCESS_START"] = "settings"
coverage.process_startup()
"""


@ONE_LOOP
@KERNEL_TYPES
async def test_modules_of_the_user_and_coverage(tmp_path: Path, kernel_type: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "settings").write_text("[run]\ndata_file = data\n")
    async with run_kernel(kernel_type, cwd=tmp_path) as kernel:
        for code in (WITNESS, COVERAGE, "import mine"):
            (await kernel.execute(code)).raise_for_error()
        assert (await kernel.execute("import matplotlib.pyplot\n1 / 0")).status == "error"
    assert await kernel.manager.wait() == 0
    assert (tmp_path / "by_a_module").read_text() == "text"
    assert (tmp_path / "data").exists()
    assert not (tmp_path / "finalized").exists()


@ONE_LOOP
@pytest.mark.parametrize(
    "code",
    [
        "zmq.thing = type('Thing', (), {'__del__': lambda self: None})()",
        "zmq.thing = __import__('tempfile').NamedTemporaryFile()",
        "def generate():\n try: yield\n finally: pass\nzmq.thing = generate()\nnext(zmq.thing)",
        "import mine; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    ],
)
async def test_python_finalizes_if_something_may_be_lost(tmp_path: Path, code: str) -> None:
    (tmp_path / "mine.py").write_text("")
    async with run_kernel("fork/kernel", cwd=tmp_path) as kernel:
        for piece in (WITNESS, code):
            (await kernel.execute(piece)).raise_for_error()
    assert await kernel.manager.wait() == 0
    assert (tmp_path / "finalized").exists()


@ONE_LOOP
async def test_preloaded_files_are_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "opens_file.py").write_text("file = open('in_the_server', 'w')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    async with run_kernel("fork/kernel", finder=finder("opens_file"), cwd=tmp_path) as kernel:
        for code in (WITNESS, "import opens_file as o; o.file.write('x')"):
            (await kernel.execute(code)).raise_for_error()
    assert await kernel.manager.wait() == 0
    assert (tmp_path / "in_the_server").read_text() == "x"
    assert not (tmp_path / "finalized").exists()


@ONE_LOOP
async def test_leaked_shared_memory_is_removed(tmp_path: Path) -> None:
    """The owner kills the resource tracker, which removes it, as soon as the kernel has ended."""
    code = """
        from multiprocessing.shared_memory import SharedMemory
        memory = SharedMemory(create=True, size=100)
        memory.name
        """
    async with run_kernel("fork/kernel", cwd=tmp_path) as kernel:
        await kernel.execute(WITNESS)
        name = await evaluate(kernel, dedent(code))
    assert await kernel.manager.wait() == 0
    assert name not in os.listdir("/dev/shm")
    assert not (tmp_path / "finalized").exists()


@ONE_LOOP
async def test_output_of_atexit_arrives(tmp_path: Path) -> None:
    async with (
        run_kernel("fork/kernel", cwd=tmp_path) as kernel,
        connect_kernel(kernel.manager.connection_file) as client,
        client.messages(msg_types=("stream",)) as messages,
    ):
        for code in (WITNESS, "atexit.register(print, 'printed at the end')"):
            (await kernel.execute(code)).raise_for_error()
        await kernel.shutdown()
        message, _ = await anext(messages)
        assert b"printed at the end" in message.raw_content
    assert not (tmp_path / "finalized").exists()


def test_a_file_that_blocks_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_exit, "FLUSH_SECONDS", 0.05)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write_end, bytes(2**16))
    os.set_blocking(write_end, True)
    blocked = open(write_end, "wb")  # noqa: SIM115
    blocked.write(b"x")
    other = open(tmp_path / "other", "w")  # noqa: SIM115
    other.write("text")
    early_exit.flush_all(map(weakref.ref, (blocked, other)))
    assert (tmp_path / "other").read_text() == "text"
    os.close(read_end)  # ends the write
    with suppress(BrokenPipeError):
        blocked.close()
    other.close()


def test_modules_of_the_user_are_those_that_were_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def module(path: str | None) -> ModuleType:
        made = ModuleType("mine")
        made.__file__ = path
        monkeypatch.setitem(sys.modules, "mine", made)
        return made

    mine = module(str(tmp_path / "mine.py"))
    assert early_exit.is_users(mine)
    assert "mine" in early_exit.users_modules()
    installed = (early_exit.__file__, os.__file__, "/venv/site-packages/zmq/__init__.py", None)
    assert not any(early_exit.is_users(module(path)) for path in installed)
    assert not early_exit.is_users(mine)  # replaced by another module
    mine.__name__ = 6  # type: ignore[assignment]
    assert not early_exit.is_users(mine)


def test_the_hooks_belong_to_the_kernel() -> None:
    assert early_exit.is_kernels(f"{ipykernel.HOOKS}.shell_channel")
