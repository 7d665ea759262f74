"""What every test may use: the event loops, folders of its own, and the check for what is left."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from blockbuster import blockbuster_ctx

# An example takes as long as it takes: the machine may be busy. Otherwise hypothesis' own profile.
hypothesis.settings.register_profile("no deadline", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("no deadline")

try:
    import uvloop
except ImportError:
    uvloop = None
else:
    uvloop.new_event_loop().close()  # its first loop makes a pipe, which the process then keeps

LOOPS = ("asyncio", "trio", "uvloop")

# By default only these folders repeat their tests on uvloop: their code depends on the event loop
# itself, on its transports, descriptors, signals and threads. `--loops=all` repeats all tests.
UVLOOP_FOLDERS = (
    "client",
    "concurrency",
    "integration",
    "launch/output",
    "launch/process",
    "server/program",
    "transport",
)

# `--quick` leaves out the tests whose processor time is spent by real kernels and other programs,
# and by measurements.
SLOW = (
    "benchmarks",
    "cli",
    "concurrency/test_process_owner.py",
    "fuzz",
    "integration",
    "jupyter",
    "launch/batch",
    "launch/container",
    "launch/environments/test_provider.py",
    "launch/leftovers",
    "launch/process",
    "launch/programs",
    "launch/test_adopt.py",
    "launch/test_local.py",
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
assert all((HERE / name).exists() for name in (*UVLOOP_FOLDERS, *SLOW)), "a folder was renamed"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose tests."""
    parser.addoption(
        "--loops",
        type=_loops,
        metavar="LOOP,...",
        help=f"run tests on these event loops only: {', '.join(LOOPS)}, or all; "
        f"by default asyncio and trio, and uvloop in {', '.join(UVLOOP_FOLDERS)}",
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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders that are slow, with ``--quick``."""
    quick = config.getoption("quick")
    return True if quick and collection_path in {HERE / name for name in SLOW} else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests on event loops that ``--loops`` or ``--quick`` do not want."""
    left_out = [item for item in items if _loop_of(item) not in (None, *_loops_for(item, config))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


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
    if any(item.path.is_relative_to(HERE / name) for name in UVLOOP_FOLDERS):
        return LOOPS
    return ("asyncio", "trio")


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
    while left := _inventory(runtime_dir) - before:
        if time.monotonic() > deadline:
            pytest.fail("left behind:\n  " + "\n  ".join(sorted(left)))
        gc.collect()
        time.sleep(0.01)


def _inventory(runtime_dir: Path) -> set[str]:
    """List what this test has, in words; without /proc there are no processes or descriptors."""
    files = {f"file {path}" for path in runtime_dir.rglob("*")}
    threads = {
        f"thread {thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if not thread.name.startswith(_WORKER_THREADS)
    }
    return files | threads | set(_descriptors()) | set(_processes(runtime_dir))


# Idle workers belong to the event loop: Trio's live on for ten seconds, anyio's as long as it.
_WORKER_THREADS = ("Trio thread", "AnyIO worker thread", "asyncio_")


def _descriptors() -> Iterator[str]:
    for link in Path("/proc/self/fd").glob("*"):
        try:
            yield f"descriptor {link.name} {link.readlink()}"
        except FileNotFoundError:  # the one that was listing them
            continue


def _processes(runtime_dir: Path) -> Iterator[str]:
    """Name the children of this process, and whoever has inherited the runtime folder's name.

    An orphan is nobody's child any more, but its environment tells where it comes from.
    """
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        try:
            stat = (process / "stat").read_text(errors="replace")  # programs have any names
            parent = int(stat.rpartition(")")[2].split()[1])
            command = (process / "cmdline").read_text(errors="replace").replace("\0", " ")
            ours = parent == os.getpid() or bytes(runtime_dir) in (process / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or not ours
            continue
        if ours and pid != os.getpid():
            yield f"process {pid} {command or 'ended, but not waited for'}"
