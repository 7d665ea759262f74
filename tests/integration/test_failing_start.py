"""Kernels that do not start: a typed error that names the command, what it said and the phase."""

from __future__ import annotations

import shlex
import sys

import anyio
import pytest

from kernelproto import (
    KernelExitedEarly,
    KernelFinder,
    KernelNotReady,
    Timeouts,
    run_kernel,
    start_kernel,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


async def try_to_run(name: str, **options) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(name, **options):
            pytest.fail("it has started")


async def try_to_start(name: str, **options) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        await start_kernel(name, **options)
    pytest.fail("it has started")


doors = pytest.mark.parametrize(
    "door", [try_to_run, try_to_start], ids=["run_kernel", "start_kernel"]
)


@doors
async def test_command_that_does_not_exist(door, write_kernelspec) -> None:
    write_kernelspec("lost", argv=["no-such-command", "{connection_file}"])
    with pytest.raises(KernelExitedEarly, match="cannot run 'no-such-command'") as caught:
        await door("lost")
    assert caught.value.command[0] == "no-such-command"
    assert caught.value.returncode is None
    assert "PATH" in str(caught.value)


EXITS = {
    "with status 3": ("print('out'); raise SystemExit(3)", 3, "exit status 3", "out"),
    "with status 0": ("", 0, "exit status 0", ""),
    "with a message": ("raise SystemExit('no\\nluck')", 1, "exit status 1", "no\nluck"),
    "with a traceback": ("1 / 0", 1, "exit status 1", "ZeroDivisionError: division by zero"),
    "by a signal": (
        "import os, sys; print('help', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
        -9,
        "signal 9 (SIGKILL)",
        "help",
    ),
}


@pytest.mark.parametrize(("code", "returncode", "words", "output"), EXITS.values(), ids=EXITS)
async def test_kernel_that_exits_at_once(code, returncode, words, output, write_kernelspec) -> None:
    argv = [sys.executable, "-c", code, "{connection_file}"]
    write_kernelspec("short-lived", argv=argv)
    with pytest.raises(KernelExitedEarly) as caught:
        await try_to_run("short-lived")
    error = caught.value
    assert error.returncode == returncode
    assert error.command[:3] == tuple(argv[:3])
    assert error.stderr.rstrip().endswith(output)
    message = str(error)
    assert words in message
    assert shlex.join(error.command) in message
    assert all(line in message for line in output.splitlines())


async def test_kernel_that_says_a_lot_before_it_exits(write_kernelspec) -> None:
    code = "for n in range(50_000): print('line', n)\nraise SystemExit(1)"
    write_kernelspec("talkative", argv=[sys.executable, "-c", code, "{connection_file}"])
    with pytest.raises(KernelExitedEarly) as caught:
        await try_to_run("talkative")
    assert caught.value.stderr.endswith("line 49998\nline 49999\n")
    assert str(caught.value).endswith("  line 49998\n  line 49999")
    assert "line 49900" not in str(caught.value)


@pytest.mark.parametrize("habits", ["absent", "mute"])
@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_kernel_that_never_answers(habits, transport) -> None:
    with pytest.raises(KernelNotReady) as caught:
        await try_to_run(
            "spec/scripted",
            launch_params={"habits": habits},
            transport=transport,
            timeouts=Timeouts(startup=0.3),
        )
    error = caught.value
    assert (error.phase, error.seconds) == ("kernel_info_reply", 0.3)
    assert all(
        words in str(error) for words in ["kernel_info_reply", "0.3 s", "scripted/kernel.py"]
    )
    assert isinstance(error, TimeoutError)


@doors
async def test_launch_that_never_returns(door) -> None:
    class Provider:
        id = "slow"

        async def find_kernels(self):
            yield "kernel", {}

        async def launch(self, name, *, cwd=None, launch_params=None):
            await anyio.sleep_forever()

    with pytest.raises(KernelNotReady, match=r"took longer than 0\.1 s") as caught:
        await door("slow/kernel", finder=KernelFinder([Provider()]), timeouts=Timeouts(startup=0.1))
    assert (caught.value.phase, caught.value.seconds) == ("launch", 0.1)
