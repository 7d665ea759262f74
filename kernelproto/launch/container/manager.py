"""ContainerManager: the handle on a kernel in a container."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Sequence

import anyio.to_thread

from kernelproto.concurrency.process_owner import Owner
from kernelproto.concurrency.shield import to_the_end
from kernelproto.interfaces import DeathReason, KernelHandle
from kernelproto.launch.container.container import Container, Ended
from kernelproto.launch.container.engine import EngineError
from kernelproto.launch.leftovers.kernel_folder import KernelFolder
from kernelproto.launch.output.file import FileTail
from kernelproto.launch.process.proc import oom_kills
from kernelproto.launch.signalling import SendsSignals
from kernelproto.timeouts import Timeouts

logger = logging.getLogger(__name__)

PROVIDER = "container"
LOG = "output"

_KILL_SECONDS = Timeouts().kill

# cleanup() takes at most this time: one call of the engine kills, another removes.
_CLEANUP_SECONDS = 30.0

# A line of podman's log: the time, the stream, and whether the line is complete.
_LOG_LINE = re.compile(r"^\S+ (?:stdout|stderr) ([FP]) (.*)$")


class ContainerManager(SendsSignals):
    """The handle on a kernel that runs in a container.

    Implements KernelManager, DescribesFailure, ExplainsDeath, IsListed, MayOutlive, HasHandle. A
    signal reaches the kernel, and not its child processes; kill() ends all of them.

    If this program is killed, the next launch of a container kernel of this user removes the
    container, unless the kernel was launched detached or another program has adopted the kernel.

    An exit status from 129 to 192 counts as a signal: a container does not tell them apart.

    Attributes:
        kernel_id: a UUID.
        command: the command line in the container.
        container: the name of the container.
        detached: whether the kernel outlives this program.
    """

    def __init__(self, folder: KernelFolder, container: Container, memory: int | None) -> None:
        record = folder.record
        super().__init__(record.interrupt_mode)
        self.kernel_id = record.kernel_id
        self.command: Sequence[str] = record.command
        self.container = container.name
        self.detached = record.detached
        self._folder = folder
        self._container = container
        self._memory = memory
        self._owner = Owner()
        self._tail: str | None = None
        self._listed_as = record.listed_as or record.kernel_id
        self._killed = False
        self._oom_kills = oom_kills()
        self._cleaning = anyio.Lock()
        self._is_over = False

    async def is_alive(self) -> bool:
        """Return whether the container runs."""
        self._owner.check("kernel")
        return await self._look() is None

    async def wait(self) -> int | None:
        """Wait until the container has ended; return the exit status, None if unknown."""
        self._owner.check("kernel")
        ended = await self._container.wait()
        await self._keep_output()
        return ended.returncode

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel; do nothing after its end.

        Raises:
            EngineError: the engine did not send the signal.
        """
        self._owner.check("kernel")
        if signum:
            self._killed |= signum == signal.SIGKILL
            await self._container.signal(signum)

    async def cleanup(self) -> None:
        """End the kernel, and remove the container and the folder of the kernel.

        ``cleanup`` takes at most 30 seconds, cannot be cancelled, and may be called again. A
        container that the engine does not remove is logged; a later launch removes it.
        """
        if self._owner.is_here:
            await to_the_end(self._clean_up, seconds=_CLEANUP_SECONDS)

    async def detach(self) -> None:
        """Stop managing a detached kernel, which goes on, so that any program can adopt it.

        Raises:
            RuntimeError: the kernel was not launched detached.
        """
        if not self.detached:
            raise RuntimeError("only a kernel that was launched detached can be detached")
        if not self._is_over and self._owner.is_here:
            self._is_over = True
            self._container.close()
            await anyio.to_thread.run_sync(self._folder.ownership.let_go)

    def close(self) -> None:
        """Release the resources of this program for a kernel that was not adopted after all."""
        self._container.close()

    def list_as(self, kernel_id: str) -> None:
        """Give handles this kernel id, which stays the same across restarts."""
        self._listed_as = kernel_id

    def handle(self) -> KernelHandle | None:
        """Return the handle of a detached kernel; None for other kernels."""
        return handle_of(self._folder, self._listed_as) if self.detached else None

    def output_tail(self) -> str:
        """Return the last lines of the output: with docker, only after the end of the kernel."""
        if self._tail is not None:
            return self._tail
        return "".join(map(_log_text, FileTail(self._folder.file(LOG)).text().splitlines()))

    def death_reason(self) -> str | None:
        """Return why the container has ended, if more than the exit status is known."""
        ended = self._container.ended
        if ended is None or self._killed:
            return None
        # Some engines do not notice that Linux has ended a process for its memory.
        was_killed = ended.returncode == -signal.SIGKILL and oom_kills() != self._oom_kills
        if not (ended.out_of_memory or was_killed):
            return None
        limit = "" if self._memory is None else f" ({self._memory // 2**20} MiB)"
        return DeathReason(
            f"the container used up its memory{limit}; raise memory of the kernel type",
            "memory_limit",
        )

    async def _look(self) -> Ended | None:
        ended = await self._container.look()
        if ended is not None:
            await self._keep_output()
        return ended

    async def _keep_output(self) -> None:
        """Keep the end of the output, which is removed with the container."""
        if self._tail is None and not self._is_over:
            self._tail = self.output_tail() or await self._container.output()

    async def _clean_up(self) -> None:
        async with self._cleaning:
            if self._is_over:
                return
            try:
                with anyio.move_on_after(_KILL_SECONDS):
                    await self._container.signal(signal.SIGKILL)
                    await self._container.wait()
                    await self._keep_output()
                await self._container.remove()
            except EngineError as error:
                logger.warning("the container %s was not removed: %s", self.container, error)
            else:
                await anyio.to_thread.run_sync(self._folder.remove)
            finally:
                self._is_over = True
                self._container.ended = self._container.ended or Ended(None, False)
                self._container.close()


def handle_of(folder: KernelFolder, listed_as: str) -> KernelHandle:
    """Return the handle of a kernel."""
    record = folder.record
    return KernelHandle(
        host=PROVIDER,
        kernel_type=record.kernel_type,
        kernel_id=listed_as,
        place={"kernel_id": record.kernel_id, "folder": folder.path},
    )


def _log_text(line: str) -> str:
    """Return the text of a line of podman's log."""
    found = _LOG_LINE.match(line)
    if found is None:
        return ""  # the first line of a tail may be cut off
    return found[2] + ("\n" if found[1] == "F" else "")
