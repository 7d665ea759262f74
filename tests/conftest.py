"""What every test may use: the event loops, folders of its own, and the check for what is left."""

from __future__ import annotations

import argparse
import functools
import gc
import os
import select
import shutil
import sys
import tempfile
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from blockbuster import blockbuster_ctx

# An example takes as long as it takes: the machine may be busy. Otherwise hypothesis' own profile.
hypothesis.settings.register_profile("no deadline", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("no deadline")
hypothesis.settings.register_profile(
    "quick", hypothesis.settings.get_profile("no deadline"), max_examples=20
)

try:
    import uvloop
except ImportError:
    uvloop = None
else:
    uvloop.new_event_loop().close()  # its first loop makes a pipe, which the process then keeps

LOOPS = ("asyncio", "trio", "uvloop")

# The event loops that the tests marked `anyio` run on by default. The nearest entry counts.
#
# - EACH: each test runs on each loop. The code depends on the loop itself, on its transports,
#   descriptors, signals and threads.
# - BOTH: each test runs on asyncio and on Trio, which schedule and cancel tasks differently.
# - ONE: each test runs on asyncio or on Trio, and they take turns from test to test. The code uses
#   the loop only through packages that are tested on each loop, or the time goes to processes.
# - ONE_OF_ALL: as ONE, with uvloop as the third.
#
# `--loops=all` runs each test on each loop.
EACH, BOTH, ONE, ONE_OF_ALL = "each", "both", "one", "one of all"
LOOPS_BY_FOLDER = {
    ".": BOTH,
    "cli": ONE,
    "client": EACH,
    "concurrency": EACH,
    "integration": ONE_OF_ALL,
    "integration/notebooks/test_nbclient.py": BOTH,  # each loop has another kernel
    "integration/test_cancellation.py": EACH,
    "jupyter": ONE,
    "launch/environments": ONE,
    "launch/output": EACH,
    "launch/process": EACH,
    "launch/programs": ONE,
    "launch/test_finder.py": ONE,
    "launch/test_providers.py": ONE,
    "launch/test_sandboxed_kernels.py": ONE,
    "launch/test_warm.py": ONE,
    "mcp": ONE,
    "notebook": ONE,
    "registry": ONE,
    "remote": ONE,
    "server": ONE,
    "server/program": EACH,
    "testing/test_manager_checks.py": ONE,
    "testing/test_provider_checks.py": ONE,
    "transport": EACH,
}

# `--quick` leaves out the tests whose processor time is spent by real kernels and other programs,
# and by measurements.
SLOW = (
    "benchmarks",
    "cli",
    "concurrency/test_process_owner.py",
    "fuzz",
    "integration",
    "jupyter",
    "host/test_launch.py",
    "kubernetes/test_host_in_pod.py",
    "kubernetes/test_loss.py",
    "kubernetes/test_provider.py",
    "launch/batch",
    "launch/container",
    "launch/environments/test_provider.py",
    "launch/kubernetes/test_cluster.py",
    "launch/kubernetes/test_node.py",
    "launch/kubernetes/test_schemas.py",
    "launch/leftovers",
    "launch/process",
    "launch/programs",
    "launch/test_adopt.py",
    "launch/test_local.py",
    "launch/test_sandboxed_kernels.py",
    "launch/test_warm.py",
    "registry/test_postgresql.py",
    "server/program",
    "server/dashboard",
    "server/test_fields.py",
    "test_blocking.py",
    "test_docs_blocks.py",
    "test_embedding.py",
    "supervise/test_shutdown.py",
    "test_pytest_plugin.py",
    "test_run.py",
    "test_shortage.py",
    "testing/test_manager_checks.py",
    "testing/test_provider_checks.py",
)

HERE = Path(__file__).parent
assert all((HERE / name).exists() for name in (*LOOPS_BY_FOLDER, *SLOW)), "a folder was renamed"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose tests."""
    parser.addoption(
        "--loops",
        type=_loops,
        metavar="LOOP,...",
        help=f"run each test on these event loops: {', '.join(LOOPS)}, or all; "
        "by default LOOPS_BY_FOLDER in tests/conftest.py decides",
    )
    parser.addoption(
        "--quick",
        action="store_true",
        help="run the quick tests only, on asyncio; leave out real kernels and other programs",
    )


def _loops(text: str) -> tuple[str, ...]:
    loops = LOOPS if text == "all" else tuple(text.split(","))
    if unknown := sorted(set(loops) - set(LOOPS)):
        raise argparse.ArgumentTypeError(
            f"unknown event loop {', '.join(unknown)}: choose from {', '.join(LOOPS)}, or all"
        )
    return loops


def pytest_configure(config: pytest.Config) -> None:
    """Let hypothesis try fewer examples, with ``--quick``."""
    if config.getoption("quick"):
        hypothesis.settings.load_profile("quick")


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's, for --numprocesses=logical
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run one more worker than processors: a third of its time each of them waits."""
    return (os.cpu_count() or 1) + 1


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders that are slow, with ``--quick``."""
    quick = config.getoption("quick")
    return True if quick and collection_path in {HERE / name for name in SLOW} else None


@pytest.hookimpl(trylast=True)  # after -k and -m, so that `-k trio` runs every test that it names
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the event loops of each test, and put the slow tests first."""
    left_out = {item for item in items if _loop_of(item) not in (None, *_loops_for(item, config))}
    if not (config.getoption("loops") or config.getoption("quick")):
        left_out.update(_repetitions(item for item in items if item not in left_out))
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]
    for item in _uncovered(items):
        item.add_marker("no_cover")
    # A slow file must not be the last one, for which the other workers would wait.
    items.sort(key=lambda item: not _is_below(item.path, SLOW))


def _loop_of(item: pytest.Item) -> str | None:
    """Return the event loop that a test marked ``anyio`` runs on, None for other tests."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if "anyio_backend" not in parameters:
        return None
    backend = repr(parameters["anyio_backend"])  # a name, or a tuple of a name and options
    return "uvloop" if "uvloop" in backend else "trio" if "trio" in backend else "asyncio"


def _loops_for(item: pytest.Item, config: pytest.Config) -> tuple[str, ...]:
    if chosen := config.getoption("loops"):
        return chosen
    if config.getoption("quick"):
        return ("asyncio",)
    return LOOPS if _repetition(item.path) in (EACH, ONE_OF_ALL) else ("asyncio", "trio")


@functools.cache
def _repetition(path: Path) -> str:
    """Return the entry of LOOPS_BY_FOLDER for a file."""
    name = path.relative_to(HERE)
    return next(
        LOOPS_BY_FOLDER[folder.as_posix()]
        for folder in (name, *name.parents)
        if folder.as_posix() in LOOPS_BY_FOLDER
    )


def _repetitions(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the items of each test that runs on one loop, except one."""
    tests: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        loop = _loop_of(item)
        if loop is not None and _repetition(item.path) in (ONE, ONE_OF_ALL):
            name, _, parameters = item.nodeid.partition("[")
            tests[name + parameters.replace(loop, "", 1)].append(item)
    for name, same in tests.items():
        chosen = zlib.crc32(name.encode()) % len(same)  # the same one in each run
        yield from same[:chosen] + same[chosen + 1 :]


def _uncovered(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the items that run without coverage, which doubles or triples a test's processor time.

    Other items run the same lines: other tests than those with hypothesis, and the same test on
    asyncio or, in ``transport``, on Trio.
    """
    measured: set[str] = set()
    for item in sorted(items, key=_loop_order):
        if item.get_closest_marker("hypothesis") and not _is_below(item.path, ("wire",)):
            yield item
        elif (loop := _loop_of(item)) is not None:
            if loop == "trio" and _is_below(item.path, ("transport",)):
                continue  # our code for Trio's descriptors
            name, _, parameters = item.nodeid.partition("[")
            same = name + parameters.replace(loop, "", 1)
            if same in measured:
                yield item
            measured.add(same)


def _loop_order(item: pytest.Item) -> int:
    return LOOPS.index(_loop_of(item) or LOOPS[0])


@functools.cache
def _is_below(path: Path, names: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(HERE / name) for name in names)


_running: dict[str, float] = {}  # tests under way, and when each began; with xdist of all workers


def pytest_runtest_logstart(nodeid: str) -> None:
    """Note that a test has begun."""
    _running[nodeid] = time.monotonic()


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Note that a test has ended."""
    _running.pop(nodeid, None)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_testnodedown(node: Any, error: object) -> None:
    """Name the candidates at once when a worker dies: the summary may be minutes away."""
    if error:
        reporter = node.config.pluginmanager.getplugin("terminalreporter")
        reporter.write_line(f"A worker died. Tests under way: {', '.join(_running) or 'none'}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that were under way when the run or their worker ended."""
    if _running:
        terminalreporter.section("tests that did not finish")
    for nodeid, began in _running.items():
        terminalreporter.line(f"{nodeid} (began {time.monotonic() - began:.0f} s ago)")


needs_uvloop = pytest.mark.skipif(uvloop is None, reason="uvloop is not installed")


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=needs_uvloop),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Run a test marked ``anyio`` on every event loop."""
    return request.param


@pytest.fixture(autouse=True)
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give Jupyter and IPython folders that belong to this test; this is the runtime folder."""
    # Not under tmp_path, which can be too long for the path of an ipc socket (107 bytes).
    home = Path(tempfile.mkdtemp(prefix="kp-"))
    runtime = home / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(home / "data"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(home / "config"))
    monkeypatch.setenv("JUPYTER_PATH", str(home / "path"))
    monkeypatch.setenv("IPYTHONDIR", str(home / "ipython"))
    yield runtime
    shutil.rmtree(home, ignore_errors=True)  # a kernel that a failed test left may still write


@pytest.fixture
def no_blocking() -> Iterator[None]:
    """Raise BlockingError in code of kernelproto that blocks asyncio's event loop."""
    with blockbuster_ctx("kernelproto", excluded_modules=["kernelproto.testing"]) as functions:
        for name, places in MAY_BLOCK.items():
            for file, function in places:
                functions.functions[name].can_block_in(file, function)
        yield


# A handler of the logging module writes where the program has told it to.
_LOGGING = [("logging/__init__.py", "emit"), ("logging/__init__.py", "flush")]
MAY_BLOCK = {"io.TextIOWrapper.write": _LOGGING, "io.BufferedWriter.write": _LOGGING}


@pytest.fixture
def no_leaks(runtime_dir: Path) -> Iterator[None]:
    """Fail the test when it leaves a process, descriptor, thread or runtime file behind."""
    with _checked(runtime_dir):
        yield


@pytest.fixture
def no_servers_left(no_leaks: None) -> Iterator[None]:
    """End the fork servers after the test, and before the search for leaks."""
    from kernelproto.launch.process.forkserver import ForkServer  # there is none on Windows

    yield
    ForkServer.close_all()


@pytest.fixture(scope="module", autouse=True)
def no_servers_after_the_module() -> Iterator[None]:
    """End the fork servers that the tests of a module have used."""
    yield
    forkserver = sys.modules.get("kernelproto.launch.process.forkserver")
    if forkserver is not None:
        forkserver.ForkServer.close_all()


@pytest.fixture(scope="module")
def loaded_server(no_servers_after_the_module: None) -> object:
    """Run a fork server with ipykernel loaded."""
    from kernelproto.launch.process.forkserver import ForkServer  # there is none on Windows

    return ForkServer.running(())


@pytest.fixture
def quick_kernels(
    loaded_server: object, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fork the kernels of the type pyimport/kernel, for tests that need any ipykernel.

    A fork takes a fifth of the processor time.
    """
    from kernelproto.launch import ForkServerProvider, IPykernelProvider
    from kernelproto.launch.process.forkserver import ForkServer

    provider = ForkServerProvider()
    provider.id = "pyimport"
    monkeypatch.setattr(IPykernelProvider, "launch", provider.launch)
    yield
    for preload, server in list(ForkServer.servers.items()):
        if server is not loaded_server:
            del ForkServer.servers[preload]
            server.close()


@pytest.fixture
def clean() -> Iterator[None]:
    """End the kernels that a failed test has left, and remove files that were left on purpose."""
    from kernelproto.launch.leftovers.records import read_records

    yield
    for record in read_records():
        record.clear_up()


@pytest.fixture
def leak_check(runtime_dir: Path) -> Callable[[], AbstractContextManager[None]]:
    """Give the same check for a block: ``with leak_check(): ...``."""
    return lambda: _checked(runtime_dir)


@contextmanager
def _checked(runtime_dir: Path) -> Iterator[None]:
    before = _inventory(runtime_dir)
    yield
    # The system is still at work when the last call has returned: it reaps, and libzmq's threads
    # close their descriptors. What is gone within two seconds is no leak.
    deadline = time.monotonic() + 2
    while left := _new_since(before, runtime_dir):
        if time.monotonic() > deadline:
            pytest.fail("left behind:\n  " + "\n  ".join(sorted(left)))
        gc.collect()
        time.sleep(0.01)


@pytest.fixture
def until_gone() -> Callable[[int], None]:
    """Give a function that blocks until a process has ended, child or not."""

    def wait(pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        with open(pidfd) as sign:
            ready, _, _ = select.select([sign], [], [], 60)
        assert ready, f"process {pid} is still there"

    return wait


def _new_since(before: dict[str, str], runtime_dir: Path) -> list[str]:
    """Describe what a test has now, and had not before."""
    now = _inventory(runtime_dir)
    return [description for key, description in now.items() if key not in before]


def _inventory(runtime_dir: Path) -> dict[str, str]:
    """Describe what a test has, by a key; without /proc there are no processes or descriptors."""
    files = {
        f"file {os.path.join(folder, name)}"
        for folder, folders, files in os.walk(runtime_dir)  # a host may remove its folder just now
        for name in (*folders, *files)
    }
    threads = {
        f"thread {thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if not thread.name.startswith(_WORKER_THREADS)
    }
    found = {name: name for name in files | threads}
    if os.path.isdir("/proc/self/fd"):
        found |= {name: name for name in _descriptors()}
        found |= _processes(runtime_dir)
    return found


# Idle workers belong to the event loop: Trio's live on for ten seconds, anyio's as long as it.
_WORKER_THREADS = ("Trio thread", "AnyIO worker thread", "asyncio_")


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield f"descriptor {name} {os.readlink(f'/proc/self/fd/{name}')}"
        except FileNotFoundError:  # the one that was listing them
            continue


def _processes(runtime_dir: Path) -> dict[str, str]:
    """Describe the children of this process, and the processes with the runtime folder's name.

    An orphan has another parent, but its environment tells where it comes from. The key is not the
    command, because a process may have begun with another program.
    """
    own, folder = str(os.getpid()), bytes(runtime_dir)
    found = {}
    for pid in os.listdir("/proc"):
        if not pid.isdecimal() or pid == own:
            continue
        try:
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()  # after the name
            parent, started = fields[1], fields[19].decode()
            if parent.decode() == own or folder in _read(f"/proc/{pid}/environ"):
                command = _read(f"/proc/{pid}/cmdline").decode(errors="replace").replace("\0", " ")
                found[f"process {pid} {started}"] = (
                    f"process {pid} {command or 'ended, but not waited for'}"
                )
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or not ours
            continue
    return found


def _read(path: str) -> bytes:
    """Read a file of /proc; pathlib takes three times as long, and there are many files."""
    with open(path, "rb", buffering=0) as file:
        return file.read()
