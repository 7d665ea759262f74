"""A program that is killed: what becomes of kernels that do not look after their parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelproto.launch.leftovers.records import read_records, sweep
from kernelproto.launch.process.confinement import sandbox_fault
from kernelproto.launch.process.control_groups import groups_fault
from kernelproto.launch.process.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60

PROGRAM = """
import anyio, json, os, signal, sys
from kernelproto import start_kernel
from kernelproto.launch.leftovers.watchdog import _Watchdog

# In the kernel's group, and out of it.
CHILDREN = '''
import subprocess
near = subprocess.Popen(["sleep", "1000"])
far = subprocess.Popen(["sleep", "1000"], start_new_session=True)
say(f"{os.getpid()} {near.pid} {far.pid}", parent)
'''

async def main():
    kernels, pids = [], []
    for transport in ("tcp", "ipc"):
        options = json.loads(sys.argv[1])
        kernel = await start_kernel("spec/scripted", transport=transport, launch_params=options)
        kernels.append(kernel)
        result = await kernel.execute(CHILDREN)
        pids += map(int, result.raise_for_error().stdout.split())
    watchdog = _Watchdog.current
    print(json.dumps({"pids": pids, "watchdog": watchdog and watchdog._process.pid}), flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


class Program:
    """A program with two kernels, each of which has two children."""

    def __init__(self, **launch_params: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(launch_params)], stdout=subprocess.PIPE
        )
        self.pids: list[int] = []
        report = json.loads(self.process.stdout.readline())
        self.pids += report["pids"]
        self.watchdog: int | None = report["watchdog"]
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def alive(self) -> list[int]:
        return [pid for pid in self.pids if os.path.exists(f"/proc/{pid}")]


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start(**launch_params: object) -> Program:
        programs.append(Program(**launch_params))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
    for record in read_records():
        record.clear_up()


def test_kernels_and_their_children_end_with_the_program(
    run, runtime_dir: Path, until_gone
) -> None:
    program = run()
    assert len(program.alive()) == 6
    program.kill()
    for pid in [*program.pids, program.watchdog]:
        until_gone(pid)
    assert list(runtime_dir.iterdir()) == []


def test_next_start_clears_up_where_the_watchdog_has_died_too(
    run, runtime_dir: Path, until_gone
) -> None:
    program = run()
    os.kill(program.watchdog, signal.SIGKILL)
    program.kill()
    assert len(program.alive()) == 6
    assert len(list(runtime_dir.glob("kernel-*.json"))) == 2
    sweep()
    for pid in program.pids:
        until_gone(pid)
    assert list(runtime_dir.iterdir()) == []


def test_detached_kernels_live_on(run, until_gone) -> None:
    program = run(detached=True)
    assert program.watchdog is None
    program.kill()
    sweep()
    assert len(program.alive()) == 6
    records = read_records()
    assert {record.process.pid for record in records} < set(program.pids)
    for record in records:
        record.clear_up()
    for pid in program.pids:
        until_gone(pid)


# Each of its forks starts a kernel and ends it, and is killed at another step of that: before the
# first file is touched or process started, before the second one, and so on. Each has a runtime
# folder of its own. The program waits until all processes of its forks have ended.
KILLED_AT_EACH_STEP = """
import anyio, ctypes, json, os, signal, sys
from itertools import count
from kernelproto.launch import launcher
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.spec.plan import LaunchPlan

SUBREAPER = 36
TOUCHING = {"open", "os.chmod", "os.chown", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}

def die_at(step):
    steps = iter(range(step))

    def hook(event, arguments):
        touches = event in TOUCHING and is_ours(str(arguments[0]))
        if (touches or event == "subprocess.Popen") and next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

def is_ours(path):
    return path.startswith(os.environ["JUPYTER_RUNTIME_DIR"]) or "/kernelproto-" in path

async def live():
    _, manager = await launcher.launch(plan)
    await manager.cleanup()

watched, options = json.loads(sys.argv[1])
if options is not None:
    options = Sandbox(**options)
plan = LaunchPlan(argv=("sleep", "1000"), transport="ipc", sandbox=options)
anyio.run(live)  # the first sandbox of a program makes another one, as a trial
if not watched:
    sys.executable = ""  # as in a frozen application, which has no Python for the watchdog
ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
runtime = os.environ["JUPYTER_RUNTIME_DIR"]
for step in count():
    os.environ["JUPYTER_RUNTIME_DIR"] = os.path.join(runtime, str(step))
    pid = os.fork()
    if pid == 0:
        die_at(step)
        anyio.run(live)
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        print(step)
        break
try:
    while watched:
        os.wait()
except ChildProcessError:
    pass
"""


def kill_at_each_step(*, watched: bool, sandbox: dict[str, object] | None = None) -> int:
    """Run the program; return the number of steps."""
    arguments = [KILLED_AT_EACH_STEP, json.dumps([watched, sandbox])]
    program = [sys.executable, "-c", *arguments]
    return int(subprocess.check_output(program, timeout=GUARD_SECONDS, stderr=subprocess.DEVNULL))


@pytest.mark.parametrize("sandboxed", [False, True])
def test_watchdog_clears_up_whenever_the_program_is_killed(
    runtime_dir: Path, sandboxed: bool
) -> None:
    limits: dict[str, object] = {}
    if sandboxed:
        if (fault := sandbox_fault()) is not None:
            pytest.skip(fault)
        for limit in ({"memory": 2**30}, {"cpu": 1}):
            if groups_fault(Sandbox(**limit)) is None:
                limits |= limit
    groups = control_groups()
    assert kill_at_each_step(watched=True, sandbox=limits if sandboxed else None) > 15
    assert [path for path in runtime_dir.rglob("*") if path.parent != runtime_dir] == []
    assert control_groups() == groups
    for folder in runtime_dir.iterdir():
        folder.rmdir()


def test_next_start_clears_up_whenever_the_program_is_killed(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kill_at_each_step(watched=False) > 15
    for folder in runtime_dir.iterdir():
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
        sweep()
        assert list(folder.iterdir()) == []
        folder.rmdir()


def control_groups() -> set[str]:
    """Return the folders of the control groups of all kernels."""
    return {name for name, _, _ in os.walk("/sys/fs/cgroup") if "/kernelproto-" in name}
