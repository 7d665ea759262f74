"""Kill programs with sandboxed kernels at random moments; count everything that is left.

Run by hand, as root or as an ordinary user: ``python tests/integration/sandbox_kills.py [TIMES]``.
Each time, a program starts a sandboxed kernel that starts processes in other sessions. SIGKILL ends
the program, the fork server, the guard, the init, the kernel or one of its processes at a random
moment, and a little later the program. Then nothing may be left of the sandbox: no process, file,
control group or mount. The exit status is 1 if anything is.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from kernelproto.launch.process.control_groups import groups_fault
from kernelproto.launch.process.sandbox import Sandbox

PROGRAM = """
import json, sys
import anyio
import kernelproto

ESCAPE = '''
import subprocess, sys
for _ in range(3):
    code = "import time; x = bytes(10**6); time.sleep(1000)"
    subprocess.Popen([sys.executable, "-c", code], env={}, start_new_session=True)
open("file", "wb").write(bytes(10**6))
'''

async def main():
    kind, settings = sys.argv[1], json.loads(sys.argv[2])
    while True:
        async with kernelproto.run_kernel(kind, launch_params={"sandbox": settings}) as kernel:
            try:
                await kernel.execute(ESCAPE)
                print("escaped", flush=True)
                await kernel.execute("import time; time.sleep(1000)")
            except kernelproto.KernelDied:
                return

anyio.run(main)
"""

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
END_SECONDS = 10.0


def main(times: int) -> int:
    """Kill so many programs; print the counts, and return the exit status."""
    # All orphans become children of this process, whatever they do.
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    settings: dict[str, object] = {"processes": 100}
    for limits in ({"memory": 2**30}, {"cpu": 1}):
        if groups_fault(Sandbox(**limits)) is None:
            settings |= limits
    left, killed = Counter[str](), Counter[str]()
    slowest = 0.0
    with tempfile.TemporaryDirectory(prefix="kp") as folder:
        env = {**os.environ, "JUPYTER_RUNTIME_DIR": folder, "TMPDIR": folder}
        mounts = Path("/proc/self/mountinfo").read_bytes()
        groups = control_groups()
        # Of one start; on a loaded machine a fixed time would end before most kernels have begun.
        most_seconds = 1.5 * seconds_to_escape(settings, env)
        for number in range(times):
            kind = ("fork/kernel", "pyimport/kernel")[number % 2]
            command = [sys.executable, "-c", PROGRAM, kind, json.dumps(settings)]
            with subprocess.Popen(
                command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as program:
                time.sleep(random.uniform(0, most_seconds))
                victim = random.choice([None, *processes_of(program.pid)])
                if victim is not None:
                    killed["a process of it"] += 1
                    with suppress(psutil.NoSuchProcess):
                        victim.kill()
                    time.sleep(random.uniform(0, 0.1))
                else:
                    killed["the program"] += 1
                program.kill()
            began = time.monotonic()
            while remains := remaining(Path(folder), groups, mounts):
                if time.monotonic() - began > END_SECONDS:
                    report(f"{number}: {kind}, killed {victim}: left {dict(remains)}")
                    left += remains
                    groups = control_groups()
                    break
                time.sleep(0.01)
            slowest = max(slowest, time.monotonic() - began)
    report(f"killed {times} times: {dict(killed)}")
    report(f"killed within {most_seconds:.1f} s of the start; settings: {settings}")
    report(f"all was gone after at most {slowest:.2f} s")
    report(f"left: {dict(left) or 'nothing'}")
    return 1 if left else 0


def seconds_to_escape(settings: dict[str, object], env: dict[str, str]) -> float:
    """Return the time from the start of a program until its kernel has started processes."""
    command = [sys.executable, "-c", PROGRAM, "fork/kernel", json.dumps(settings)]
    began = time.monotonic()
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"escaped\n"
        seconds = time.monotonic() - began
        program.kill()
    return seconds


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def processes_of(program: int) -> list[psutil.Process]:
    """Return the processes below a program, without the watchdog, which has no watchdog itself."""
    found: list[psutil.Process] = []
    for process in psutil.Process(program).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if not any(word.endswith("watchdog.py") for word in process.cmdline()):
                found.append(process)
    return found


def remaining(folder: Path, groups: set[str], mounts: bytes) -> Counter[str]:
    """Count the processes, files, control groups and mounts that are left."""
    while True:  # reap the orphans
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                break
        except ChildProcessError:
            break
    return +Counter(
        processes=len(psutil.Process().children(recursive=True)),
        files=sum(path.is_file() or path.is_socket() for path in folder.rglob("*")),
        groups=len(control_groups() - groups),
        mounts=int(Path("/proc/self/mountinfo").read_bytes() != mounts),
    )


def control_groups() -> set[str]:
    """Return the folders of all control groups of kernels."""
    return {name for name, _, _ in os.walk("/sys/fs/cgroup") if "/kernelproto-" in name}


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 200))
