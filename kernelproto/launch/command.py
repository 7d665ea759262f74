"""Running the programs of container engines and batch systems, with limits."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import anyio
from anyio.abc import ByteReceiveStream, Process

from kernelproto.concurrency.shield import to_the_end
from kernelproto.concurrency.task_groups import background_tasks

# The rest of the output is read and discarded, so that the program does not wait.
_MOST_OUTPUT = 8 * 2**20

# A process that the program has left behind may keep the pipes open.
_DRAIN_SECONDS = 1.0

_KILL_SECONDS = 5.0


class Completed(NamedTuple):
    """A program that has ended.

    Attributes:
        returncode: the exit status, negative for a signal.
        stdout: at most 8 MiB of the standard output.
        stderr: at most 8 MiB of the standard error.
    """

    returncode: int
    stdout: str
    stderr: str


async def run_command(
    command: Sequence[str],
    *,
    seconds: float,
    input: str = "",
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Completed:
    """Run a program to its end; kill the program when this call is cancelled.

    The program has a session of its own, so Ctrl-C does not reach it.

    Args:
        command: the program with arguments; no shell is involved.
        seconds: the time limit.
        input: the standard input.
        env: the whole environment; by default that of this program.
        cwd: the working directory; by default that of this program.

    Raises:
        OSError: the program cannot be run.
        TimeoutError: the program has not ended in time, and was killed.
    """
    process = await anyio.open_process(
        command,
        stdin=subprocess.PIPE if input else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    outputs = bytearray(), bytearray()
    try:
        with anyio.fail_after(seconds):
            await _communicate(process, input.encode(), *outputs)
    finally:
        await to_the_end(lambda: _end(process), seconds=_KILL_SECONDS)
    stdout, stderr = (output.decode("utf-8", "replace") for output in outputs)
    assert process.returncode is not None
    return Completed(process.returncode, stdout, stderr)


async def _communicate(
    process: Process, input: bytes, stdout: bytearray, stderr: bytearray
) -> None:
    ended = [anyio.Event(), anyio.Event()]
    async with background_tasks() as tasks:
        tasks.start_soon(_read, process.stdout, stdout, ended[0])
        tasks.start_soon(_read, process.stderr, stderr, ended[1])
        if process.stdin is not None:
            with suppress(anyio.BrokenResourceError):
                await process.stdin.send(input)
            await process.stdin.aclose()
        await process.wait()
        with anyio.move_on_after(_DRAIN_SECONDS):
            for event in ended:
                await event.wait()


async def _read(stream: ByteReceiveStream | None, into: bytearray, ended: anyio.Event) -> None:
    assert stream is not None
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            data = await stream.receive()
            into += data[: _MOST_OUTPUT - len(into)]
    ended.set()


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.aclose()
