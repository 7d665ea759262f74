"""Programs that launch a kernel on an engine and are killed, at a chosen step or at random."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

LONGEST_SECONDS = 3.0

# The program is killed before the engine gets the order, after the order was carried out but before
# the program has the reply, or when the program asks for the new container or node.
STEPS = ("ordered", "made", "known")

LAUNCH = """
import json, sys
import anyio
from kernelproto import KernelFinder, run_kernel

async def main():
    kind, config, params = json.loads(sys.argv[1])
    finder = KernelFinder.from_entrypoints()
    finder.load_config({kind: config})
    print("begun", flush=True)
    async with run_kernel(f"{kind}/short", finder=finder, launch_params=params) as kernel:
        print("launched", flush=True)
        await kernel.execute("6 * 7")
    print("ended", flush=True)

anyio.run(main)
"""

# The parent of each is the program. The engine goes on after the end of the program.
SCRIPTS = {
    ("podman", "ordered"): 'case "$*" in *" run "*) kill -9 $PPID;; esac',
    ("podman", "made"): 'case "$*" in *" run "*) {real} "$@"; kill -9 $PPID; exit;; esac',
    ("podman", "known"): (
        'case "$*" in *" run "*) touch {folder}/made;; '
        '*" container inspect "*) [ -e {folder}/made ] && kill -9 $PPID;; esac'
    ),
    ("sbatch", "ordered"): "kill -9 $PPID",
    ("sbatch", "made"): '{real} "$@"; kill -9 $PPID; exit',
    ("scontrol", "known"): "kill -9 $PPID",
}


def kill_at_random(kind: str, config: Mapping[str, object]) -> str:
    """Kill a program that launches a kernel; return the last step that it has told."""
    with _program(kind, config, None, os.environ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        time.sleep(random.random() * LONGEST_SECONDS)
        program.kill()
        return (["begun", *program.stdout.read().split()])[-1]


def kill_at(
    step: str,
    kind: str,
    config: Mapping[str, object],
    params: Mapping[str, object] | None = None,
) -> None:
    """Kill a program at one of STEPS; *params* are the launch parameters.

    Raises:
        AssertionError: the program came to the next step.
    """
    with tempfile.TemporaryDirectory(prefix="kp-kill-") as folder:
        for (name, at), text in SCRIPTS.items():
            if at == step and (real := shutil.which(name)):
                script = Path(folder, name)
                order = text.format(real=real, folder=folder)
                script.write_text(f'#!/bin/sh\n{order}\nexec {real} "$@"\n')
                script.chmod(0o755)
        path = f"{folder}:{os.environ['PATH']}"
        with _program(kind, config, params, {**os.environ, "PATH": path}) as program:
            said, _ = program.communicate(timeout=120)
        assert (said, program.returncode) == ("begun\n", -9), (step, said, program.returncode)


def processes_of(folder: str) -> list[str]:
    """Return the command lines of the processes that use a folder or something mounted from it."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if int(process.name) != os.getpid() and (
                folder in command or folder in (process / "mountinfo").read_text()
            ):
                found.append(command)
        except OSError:
            continue  # it has ended
    return found


def _program(
    kind: str,
    config: Mapping[str, object],
    params: Mapping[str, object] | None,
    env: Mapping[str, str],
) -> subprocess.Popen[str]:
    argument = json.dumps([kind, config, params])
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, argument], stdout=subprocess.PIPE, text=True, env=env
    )
