"""Kernels of a program that blocks or ignores signals, as services and ``nohup`` do."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

GUARD_SECONDS = 120

PROGRAM = """
import signal
import anyio
from kernelproto import LaunchError, run_kernel

{change}

async def main():
    try:
        async with run_kernel({name!r}, env={env!r}) as kernel:
            slow = kernel.execute("print('begun'); import time; time.sleep(1000)")
            await anext(slow)
            await kernel.interrupt()
            print((await slow).error.ename)
            print((await kernel.execute({report!r})).raise_for_error().text)
    except LaunchError as error:
        print(error)

anyio.run(main)
"""

REPORT = """
import os, signal, subprocess
ignored = {n.name for n in signal.Signals if signal.getsignal(n) == signal.SIG_IGN}
(signal.pthread_sigmask(signal.SIG_BLOCK, []), sorted(ignored), subprocess.run("false").returncode)
"""

CHANGES = [
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD])",
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGQUIT, signal.SIG_IGN)",
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
]


def run(change: str, name: str, env: dict[str, str] | None = None) -> list[str]:
    source = PROGRAM.format(change=change, name=name, env=env, report=REPORT)
    program = subprocess.run(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        text=True,
        timeout=GUARD_SECONDS,
        check=True,
    )
    return program.stdout.splitlines()


@pytest.fixture
def kernelspecs(write_kernelspec: Callable[..., Path]) -> None:
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_kernelspec("plain", argv=argv, display_name="", language="python")
    for name, program in {"missing": "no-such-command", "data": os.devnull}.items():
        argv = [program, "{connection_file}"]
        write_kernelspec(name, argv=argv, display_name="", language="")


@pytest.mark.usefixtures("kernelspecs")
@pytest.mark.parametrize("name", ["pyimport/kernel", "fork/kernel", "spec/plain"])
@pytest.mark.parametrize("change", CHANGES, ids=["blocked", "interrupt ignored", "child ignored"])
def test_kernel_blocks_and_ignores_no_signal(change: str, name: str) -> None:
    interrupted, state = run(change, name)
    assert interrupted == "KeyboardInterrupt"
    assert ast.literal_eval(state) == (set(), ["SIGPIPE", "SIGXFSZ"], 1)


@pytest.mark.usefixtures("kernelspecs")
def test_fork_server_that_was_started_earlier_has_the_signals_of_its_time() -> None:
    early = "anyio.run(main)\n" + CHANGES[0]
    source = "async def main():\n    async with run_kernel('fork/kernel'):\n        pass\n" + early
    interrupted, state = run(source, "fork/kernel")
    assert interrupted == "KeyboardInterrupt"
    assert ast.literal_eval(state) == (set(), ["SIGPIPE", "SIGXFSZ"], 1)


@pytest.mark.usefixtures("kernelspecs")
@pytest.mark.parametrize(
    ("name", "reason"),
    [("spec/missing", "No such file or directory"), ("spec/data", "Permission denied")],
)
def test_command_that_cannot_be_run(name: str, reason: str) -> None:
    (message,) = run(CHANGES[0], name)
    assert message.startswith("cannot run ")
    assert reason in message


@pytest.mark.parametrize("ctype", [None, "C.UTF-8"])
def test_environment_is_that_of_the_kernel(
    write_kernelspec: Callable[..., Path], ctype: str | None
) -> None:
    """Python changes the variable LC_CTYPE of its process."""
    argv = ["/bin/sh", "-c", "echo ctype=$LC_CTYPE >&2; exit 3", "{connection_file}"]
    write_kernelspec("shell", argv=argv, display_name="", language="")
    variables = {} if ctype is None else {"LC_CTYPE": ctype}
    lines = run(CHANGES[0], "spec/shell", {"LC_ALL": "", "LANG": "", "LC_CTYPE": "", **variables})
    assert lines[-1].strip() == f"ctype={ctype or ''}"
