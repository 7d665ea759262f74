from __future__ import annotations

import ast
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from textwrap import dedent

import anyio
import anyio.to_thread
import pytest

from kernelproto import (
    InvalidLaunchParameter,
    KernelDied,
    KernelExitedEarly,
    KernelFinder,
    LaunchError,
    NoSuchKernel,
    run_kernel,
)
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.process import forkserver_client as module
from kernelproto.launch.process.forked import ForkedProcess
from kernelproto.launch.process.forkserver import ForkServer
from kernelproto.launch.process.forkserver_client import ServerLost
from kernelproto.launch.programs import ipykernel
from kernelproto.launch.providers import ForkServerProvider
from kernelproto.testing import check_kernel_provider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left")]

GUARD_SECONDS = 60


@pytest.fixture
def no_servers_left(no_leaks: None) -> Iterator[None]:
    yield
    ForkServer.close_all()


def finder(*preload: str) -> KernelFinder:
    return KernelFinder([ForkServerProvider(preload)])


async def evaluate(kernel, code: str) -> object:
    result = await kernel.execute(code)
    return ast.literal_eval(result.raise_for_error().text)


async def test_kernel_is_as_good_as_a_new_one(tmp_path: Path) -> None:
    async with run_kernel(
        "fork/kernel",
        finder=finder(),
        cwd=tmp_path,
        env={"NAME": "value"},
        launch_params={"extra_arguments": ["--HistoryManager.enabled=False"]},
    ) as kernel:
        await kernel.execute("import os, sys, threading")
        assert await evaluate(kernel, "os.getcwd()") == str(tmp_path)
        assert await evaluate(kernel, "os.environ['NAME']") == "value"
        assert await evaluate(kernel, "os.getpgid(0) == os.getsid(0) == os.getpid()")
        assert await evaluate(kernel, "os.getpid()") == kernel.manager.pid
        assert read_records()[0].is_of(kernel.manager.pid)
        assert await evaluate(kernel, "'--HistoryManager.enabled=False' in sys.argv")
        assert not [path for path in await evaluate(kernel, "sys.path") if "kernelproto" in path]
        assert await evaluate(kernel, "os.read(0, 1)") == b""
        assert "kernelproto" not in (await kernel.execute("list(sys.modules)")).text
        interrupted = kernel.execute("print('begun'); threading.Event().wait()")
        await anext(interrupted)
        await kernel.interrupt()
        assert (await interrupted).error.ename == "KeyboardInterrupt"


def sockets_of(pid: int) -> set[str]:
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.add(str(descriptor.readlink()))
    return {link for link in links if link.startswith("socket:")}


async def test_what_is_loaded_and_what_is_open() -> None:
    async with run_kernel("fork/kernel", finder=finder("wave")) as kernel:
        assert await evaluate(kernel, "import os, sys; 'wave' in sys.modules")
        server = await evaluate(kernel, "os.getppid()")
        kernels = sockets_of(kernel.manager.pid)
        assert kernels
        assert not kernels & (sockets_of(server) | sockets_of(os.getpid()))


async def test_kernel_that_ends_closes_nothing_of_its_own(tmp_path: Path) -> None:
    """The number of what the server has is that of something else in a kernel."""
    report = tmp_path / "report"
    code = f"""
        import atexit, os

        numbers = [os.open(os.devnull, os.O_RDONLY) for _ in range(200)]

        @atexit.register
        def look():
            is_open = [os.path.exists(f"/proc/self/fd/{{number}}") for number in numbers]
            with open({str(report)!r}, "w") as file:
                print(all(is_open), file=file)
        """
    with ExitStack() as high_numbers:
        for _ in range(100):
            high_numbers.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            await kernel.execute(dedent(code))
        assert await kernel.manager.wait() == 0
    assert report.read_text() == "True\n"


async def test_what_a_module_has_opened_its_kernels_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "opens_something.py").write_text("file = open(__file__)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with run_kernel("fork/kernel", finder=finder("opens_something")) as kernel:
        assert (
            await evaluate(kernel, "import opens_something; opens_something.file.read(4)") == "file"
        )


async def test_random_numbers_are_its_own() -> None:
    code = "import random, uuid; (random.random(), str(uuid.uuid1()), str(uuid.uuid4()))"
    values = []
    for _ in range(2):
        async with run_kernel("fork/kernel", finder=finder("uuid")) as kernel:
            values.append(await evaluate(kernel, code))
    assert not set(values[0]) & set(values[1])


async def test_one_server_for_all() -> None:
    async with (
        run_kernel("fork/kernel", finder=finder()) as one,
        run_kernel("fork/kernel", finder=finder()) as other,
    ):
        parent = "import os; os.getppid()"
        assert await evaluate(one, parent) == await evaluate(other, parent)


async def test_kernel_that_dies(runtime_dir: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            with pytest.raises(KernelDied, match="exit status 3"):
                await kernel.execute("import os; os._exit(3)")
            await kernel.restart()
            await kernel.manager.signal(signal.SIGKILL)
            with pytest.raises(KernelDied, match="SIGKILL"):
                await kernel.execute("1")


async def test_server_that_dies_takes_its_kernels_with_it_and_is_replaced() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            server = await evaluate(kernel, "import os; os.getppid()")
            os.kill(server, signal.SIGKILL)
            with pytest.raises(KernelDied):
                await kernel.execute("import time; time.sleep(1000)")
            assert not await kernel.manager.is_alive()
            await kernel.restart()
            assert await evaluate(kernel, "import os; os.getppid()") != server


OWNER = """
import os, sys, anyio
from kernelproto import run_kernel
async def main():
    async with run_kernel("fork/kernel") as kernel:
        print(kernel.manager.pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


def test_owner_that_is_killed_leaves_nothing(runtime_dir: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        end = os.pidfd_open(pid)
        owner.kill()
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        assert selector.select(GUARD_SECONDS)
    os.close(end)


async def test_fork_of_the_owner_does_not_keep_the_server() -> None:
    async with run_kernel("fork/kernel", finder=finder()):
        child = os.fork()
        if child == 0:
            signal.pause()
    ForkServer.close_all()  # would wait for ever if the child held the socket
    os.kill(child, signal.SIGKILL)
    await anyio.to_thread.run_sync(os.waitpid, child, 0)


FORKING_PROGRAM = """
import atexit, os, sys, threading
import anyio
from kernelproto import run_kernel
from kernelproto.launch.process.forkserver import ForkServer

async def answer():
    async with run_kernel("fork/kernel") as kernel:
        return (await kernel.execute("6 * 7")).text

def in_child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

FORK_WHILE_A_SERVER_STARTS = """
def use_library():
    assert anyio.run(answer, backend=backend) == "42"

for _ in range(5):
    starting = threading.Thread(target=ForkServer.running, args=[()])
    starting.start()
    child = in_child(use_library)
    starting.join()
    assert status(child) == 0
    ForkServer.close_all()
"""

LEAVE_IN_A_CHILD = """
async def main():
    async with run_kernel("fork/kernel") as kernel:
        server = ForkServer.running(())

        def leave():
            for use in (kernel.manager._process.kill, kernel.manager._process.interrupt):
                try:
                    use()
                except RuntimeError as error:
                    assert "forked from" in str(error)
                else:
                    raise AssertionError("the child has sent a signal")
            server.close()
            ForkServer.close_all()
            atexit._run_exitfuncs()

        assert await anyio.to_thread.run_sync(status, in_child(leave)) == 0
        assert (await kernel.execute("6 * 7")).text == "42"
        assert not server.dead

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("program", [FORK_WHILE_A_SERVER_STARTS, LEAVE_IN_A_CHILD])
def test_fork_of_the_program(program: str, backend: str) -> None:
    source = f"backend = {backend!r}\n{FORKING_PROGRAM}\n{program}"
    subprocess.run([sys.executable, "-c", source], check=True, timeout=GUARD_SECONDS)


async def test_module_that_cannot_be_loaded() -> None:
    with pytest.raises(InvalidLaunchParameter, match=r"'no_such_module'.*ModuleNotFoundError"):
        async with run_kernel("fork/kernel", finder=finder("no_such_module")):
            pytest.fail("it has started")


async def test_module_that_starts_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    tmp_path.joinpath("threaded.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LaunchError, match="1 threads were started"):
        async with run_kernel("fork/kernel", finder=finder("threaded")):
            pytest.fail("it has started")


async def test_module_that_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("deadly.py").write_text("import os; os._exit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LaunchError, match="the fork server has ended"):
        async with run_kernel("fork/kernel", finder=finder("deadly")):
            pytest.fail("it has started")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"cwd": "/no/such/folder"}, InvalidLaunchParameter, "/no/such/folder"),
        ({"launch_params": {"detached": True}}, InvalidLaunchParameter, "pyimport/kernel"),
        ({"launch_params": {"extra_arguments": ["--no-such"]}}, KernelExitedEarly, "no-such"),
        ({"env": {"A": "\0"}}, InvalidLaunchParameter, "A"),
        ({"name": "fork/other"}, NoSuchKernel, "other"),
    ],
)
async def test_bad_launches(options, error, words) -> None:
    with pytest.raises(error, match=words):
        async with run_kernel(**{"name": "fork/kernel", "finder": finder(), **options}):
            pytest.fail("it has started")


async def test_limits() -> None:
    async with run_kernel(
        "fork/kernel", finder=finder(), launch_params={"limits": {"open_files": 100}}
    ) as kernel:
        assert await evaluate(kernel, "import resource; resource.getrlimit(7)[0]") == 100


async def test_twenty_at_once() -> None:
    async def run(number: int) -> None:
        async with run_kernel("fork/kernel", finder=kernels) as kernel:
            assert (await kernel.execute(f"{number}")).text == str(number)

    kernels = finder()
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(run, number)


def test_configuration() -> None:
    provider = ForkServerProvider()
    provider.load_config({"preload": ["decimal"]})
    provider.load_config(None)
    with pytest.raises(ValueError, match="preload"):
        provider.load_config({"preload": "decimal"})


def test_any_thread_may_fork() -> None:
    async def run() -> None:
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            parents.append(await evaluate(kernel, "import os; os.getppid()"))

    parents: list[object] = []
    threads = [threading.Thread(target=anyio.run, args=[run]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parents) == 5
    assert len(set(parents)) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("preload", "env", "shown"),
    [
        ([], {}, ["text/plain", "image/png"]),
        (["matplotlib.pyplot"], {}, ["text/plain", "image/png"]),
        (["matplotlib.pyplot"], {"MPLBACKEND": "agg"}, None),
    ],
)
async def test_figures_are_shown_as_by_a_new_kernel(preload, env, shown) -> None:
    pytest.importorskip("matplotlib")
    async with run_kernel("fork/kernel", finder=finder(*preload), env=env) as kernel:
        result = await kernel.execute("import matplotlib.pyplot as plt; _ = plt.plot([1, 2])")
        (output,) = result.raise_for_error().outputs or [None]
        assert (output and sorted(output.data, reverse=True)) == shown


def children_of(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def fork(server: ForkServer, *arguments: str, **variables: str) -> ForkedProcess:
    """Fork the program of a kernel."""
    command = [sys.executable, ipykernel.__file__, *arguments]
    env = {**os.environ, **variables}
    with open(os.devnull, "wb", buffering=0) as output:  # noqa: ASYNC230
        return await server.fork(command, env=env, cwd=None, output=output)


@pytest.fixture
def stopped_server() -> Iterator[ForkServer]:
    """Give a server that does not answer, after it has forked; it goes on after the test."""
    server = ForkServer.running([])
    anyio.run(fork, server, "--version").abort()
    os.kill(server.pid, signal.SIGSTOP)
    yield server
    with suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGCONT)


async def test_launch_that_is_cancelled_before_the_server_answers(
    stopped_server: ForkServer, tmp_path: Path, until_gone
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fork, stopped_server, "-f", str(tmp_path / "kernel.json"))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    os.kill(stopped_server.pid, signal.SIGCONT)
    process = await fork(stopped_server, "-f", str(tmp_path / "other.json"))
    for pid in children_of(stopped_server.pid):
        if pid != process.pid:
            await anyio.to_thread.run_sync(until_gone, pid)
    assert not await anyio.to_thread.run_sync(process.poll)
    process.abort()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on servers sooner."""
    monkeypatch.setattr(module, "_SIGNAL_TICKS", 2)
    monkeypatch.setattr(module, "_SILENT_TICKS", 10)


@pytest.mark.usefixtures("impatient")
async def test_server_that_does_not_answer_is_replaced_and_its_kernels_are_kept(
    until_gone,
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            first = await evaluate(kernel, "import os; os.getppid()")
            os.kill(first, signal.SIGSTOP)
            async with run_kernel("fork/kernel", finder=finder()) as other:
                assert await evaluate(other, "import os; os.getppid()") != first
            slow = kernel.execute("print('begun'); import time; time.sleep(1000)")
            await anext(slow)
            await kernel.interrupt()
            assert (await slow).error.ename == "KeyboardInterrupt"
            assert await evaluate(kernel, "6 * 7") == 42
        assert not await kernel.manager.is_alive()
        await anyio.to_thread.run_sync(until_gone, first)  # though it is stopped


@pytest.mark.usefixtures("impatient")
async def test_server_that_answers_again_ends_with_its_last_kernel(until_gone) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            first = await evaluate(kernel, "import os; os.getppid()")
            os.kill(first, signal.SIGSTOP)
            async with run_kernel("fork/kernel", finder=finder()):
                os.kill(first, signal.SIGCONT)
                assert await evaluate(kernel, "6 * 7") == 42
            await kernel.manager.kill()
            assert await kernel.manager.wait() == -signal.SIGKILL
        await anyio.to_thread.run_sync(until_gone, first)


async def test_server_that_is_stopped_ends_with_the_program(tmp_path: Path) -> None:
    server = ForkServer.running([])
    process = await fork(server, "-f", str(tmp_path / "kernel.json"))
    os.kill(server.pid, signal.SIGSTOP)
    await anyio.to_thread.run_sync(ForkServer.close_all)
    assert await process.wait() is None
    process.close()


async def test_server_that_has_no_descriptors_left_keeps_its_kernels(tmp_path: Path) -> None:
    """It may have the last for the working directory, or none for the output either."""
    server = ForkServer.running([])
    process = await fork(server, "-f", str(tmp_path / "kernel.json"))
    used = set(map(int, os.listdir(f"/proc/{server.pid}/fd")))
    unused = [number for number in range(100) if number not in used]
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    for number in unused[:4]:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (number, limits[1]))
        with pytest.raises(OSError, match="Too many open files"):
            await fork(server, "-f", str(tmp_path / "other.json"))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
    other = await fork(server, "--version")
    assert await other.wait() == 0
    other.close()
    assert not process.poll()
    process.abort()


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[str]:
    """Give a time zone that a forked process cannot read before the test is over."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    yield f":{fifo}"
    with suppress(OSError):  # nobody reads it
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))


async def test_kernel_that_hangs_holds_up_no_other(hanging: str, until_gone) -> None:
    server = ForkServer.running([])
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(fork, server, "-f", "kernel.json", TZ=hanging))
            process = await fork(server, "--version")
            assert await process.wait() == 0
            process.close()
            (pid,) = children_of(server.pid)
            tasks.cancel_scope.cancel()
        await anyio.to_thread.run_sync(until_gone, pid)
        assert not server.dead


async def test_kernel_that_hangs_is_given_up(hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENTERING_TICKS", 2)
    server = ForkServer.running([])
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(OSError, match="working directory"):
        await fork(server, "-f", "kernel.json", TZ=hanging)
    assert not server.dead


async def test_server_that_dies_fails_every_launch(hanging: str) -> None:
    server = ForkServer.running([])

    async def launch() -> None:
        with pytest.raises(ServerLost, match="it has ended"):
            await fork(server, "-f", "kernel.json", TZ=hanging)

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(launch)
            while len(server._client._processes) < 3:  # noqa: ASYNC110 (a thread hears of them)
                await anyio.sleep(0.01)
            os.kill(server.pid, signal.SIGKILL)


async def test_promises(anyio_backend_name: str) -> None:
    await check_kernel_provider(ForkServerProvider())
