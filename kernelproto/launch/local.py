"""Launching a kernel as a process on this machine, and the handle on it."""

from __future__ import annotations

import logging
import os
import shlex
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Literal

import anyio
import anyio.lowlevel

from kernelproto.exceptions import (
    InvalidLaunchParameter,
    KernelExitedEarly,
    LaunchError,
    UnsupportedRequest,
)
from kernelproto.launch.connection_file import ConnectionFile, Transport
from kernelproto.launch.output import OutputTail
from kernelproto.launch.parameters import fill_in
from kernelproto.launch.process import ProcessGroup
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ConnectionInfo

InterruptMode = Literal["signal", "message"]

logger = logging.getLogger(__name__)

_KILL_SECONDS = Timeouts().kill


class LocalKernelManager:
    """The handle on a kernel that runs as a process on this machine.

    It implements KernelManager and DescribesFailure. Signals go to the process group: to the kernel
    and to what it has started, save for processes that have left the group. Those that outlive the
    kernel are killed when its end is noticed, by whichever method comes first.

    Attributes:
        kernel_id: a UUID.
        connection_info: what the connection file says.
        connection_file: the path of that file.
        command: the command line of the process.
        pid: the number of the process and of its group.
    """

    def __init__(
        self,
        kernel_id: str,
        command: Sequence[str],
        *,
        process: ProcessGroup,
        output: OutputTail,
        connection_file: ConnectionFile,
        interrupt_mode: InterruptMode,
    ) -> None:
        self.kernel_id = kernel_id
        self.command = tuple(command)
        self.connection_info = connection_file.info
        self.connection_file = connection_file.path
        self.pid = process.pid
        self._process = process
        self._output = output
        self._files = connection_file
        self._interrupt_mode = interrupt_mode

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or where it can't be known."""
        self._process.poll()
        return self._process.returncode

    async def is_alive(self) -> bool:
        """Return whether the kernel's process runs."""
        return not self._process.poll()

    async def wait(self) -> int | None:
        """Wait until the process has ended; return its exit status, None where it can't be known.

        It may be called by many tasks, and after cleanup(). A negative status is the number of the
        signal that ended the process.
        """
        return await self._process.wait()

    async def signal(self, signum: int) -> None:
        """Send a signal to the process group; a process that has ended ignores it.

        Raises:
            PermissionError: the kernel runs as another user.
        """
        self._process.signal(signum)

    async def interrupt(self) -> None:
        """Send SIGINT to the process group.

        Raises:
            UnsupportedRequest: this kernel is interrupted by a message, not by a signal.
        """
        if self._interrupt_mode == "message":
            raise UnsupportedRequest(
                "this kernel takes no signal for an interrupt: send interrupt_request on control"
            )
        self._process.interrupt()

    async def terminate(self) -> None:
        """Ask the process group to end (SIGTERM)."""
        self._process.terminate()

    async def kill(self) -> None:
        """End the process group (SIGKILL)."""
        self._process.kill()

    async def cleanup(self) -> None:
        """Kill what still runs, and remove everything that the launch has made.

        It is not cancelled half-way, takes 5 seconds at the most, and may be called again and by
        several tasks at once. A process that even SIGKILL does not end in this time, because it
        hangs in a system call, is logged and left to itself.
        """
        try:
            with anyio.move_on_after(_KILL_SECONDS, shield=True) as waiting:
                self._process.kill()
                await self._process.wait()
            if waiting.cancelled_caught:
                logger.warning(
                    "process %d of kernel %s is still there %g s after SIGKILL",
                    self.pid,
                    self.kernel_id,
                    _KILL_SECONDS,
                )
        finally:
            self._process.close()
            self._output.close()
            self._files.remove()

    def output_tail(self) -> str:
        """Return the last 64 KiB of all that was written to standard output and standard error."""
        return self._output.text()


async def launch_local(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    transport: Transport = "tcp",
    interrupt_mode: InterruptMode = "signal",
    kernel_name: str = "",
    values: Mapping[str, str] | None = None,
) -> tuple[ConnectionInfo, LocalKernelManager]:
    """Start a kernel as a process on this machine; it is not ready yet when this returns.

    Whoever gets the manager calls its cleanup(). When this raises, nothing is left of the attempt.

    Args:
        argv: the command line; ``{connection_file}`` and ``{kernel_id}`` in it are filled in.
        env: the kernel's whole environment; JPY_PARENT_PID is added.
        cwd: the working directory; None means the caller's.
        transport: ``"tcp"`` or ``"ipc"``.
        interrupt_mode: ``"signal"`` or ``"message"``, as the kernelspec says.
        kernel_name: the kernel type, for people.
        values: for other names in braces in *argv*.

    Raises:
        KernelExitedEarly: the command cannot be run.
        InvalidLaunchParameter: the working directory cannot be entered, or an argument or variable
            holds what no program can be given.
        LaunchError: the connection file cannot be made.
    """
    await anyio.lowlevel.checkpoint()
    # From here on nothing awaits: a launch is cancelled before it has made anything, or not at all.
    kernel_id = str(uuid.uuid4())
    with ExitStack() as undo:
        files = ConnectionFile.create(kernel_id, transport=transport, kernel_name=kernel_name)
        undo.callback(files.remove)
        command = fill_in(
            argv, {**(values or {}), "connection_file": files.path, "kernel_id": kernel_id}
        )
        try:
            output = OutputTail()
            undo.callback(output.close)
            with output.write_end:
                process = ProcessGroup(
                    command,
                    env={**env, "JPY_PARENT_PID": str(os.getpid())},
                    cwd=cwd,
                    output=output.write_end,
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise _launch_error(error, command, cwd) from error
        undo.pop_all()
    manager = LocalKernelManager(
        kernel_id,
        command,
        process=process,
        output=output,
        connection_file=files,
        interrupt_mode=interrupt_mode,
    )
    return files.info, manager


def _launch_error(error: Exception, command: Sequence[str], cwd: str | None) -> LaunchError:
    """Say which part of a launch the operating system did not like."""
    if isinstance(error, ValueError):
        return InvalidLaunchParameter(f"{shlex.join(command)!r} cannot be run: {error}")
    if isinstance(error, OSError) and cwd is not None and error.filename == cwd:
        return InvalidLaunchParameter(
            f"the working directory {cwd!r} cannot be entered: {error.strerror}"
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    remedy = (
        "; see that it is installed, executable and on PATH"
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
        else ""
    )
    return KernelExitedEarly(
        f"cannot run {command[0]!r}: {reason}{remedy} (command line: {shlex.join(command)})",
        command=command,
    )
