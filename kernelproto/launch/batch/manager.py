"""JobManager: the handle on a kernel that runs as a batch job."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence

import anyio
import anyio.to_thread

from kernelproto.concurrency.process_owner import Owner
from kernelproto.concurrency.reachability import Reachability
from kernelproto.concurrency.shield import to_the_end
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.interfaces import DeathReason, KernelHandle
from kernelproto.launch.batch.folder import JobFolder
from kernelproto.launch.batch.machine import silence
from kernelproto.launch.batch.poll import JobPoll
from kernelproto.launch.batch.system import BatchError, BatchSystem, JobEnd, JobState
from kernelproto.launch.signalling import SendsSignals
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

# From the end of the kernel until the system has the final state of the job.
_FINAL_SECONDS = 10.0

# How often the lease of a kernel is renewed; the shortest linger is 5 s.
_MOST_RENEWAL_SECONDS = 30.0

# The time limit of the batch system in a probe.
_PROBE_SECONDS = 2.0

# The time between two connections to the machine of a kernel.
_CONNECT_SECONDS = 2.0

_CLEANUP_SECONDS = 60.0
_END_SECONDS = 20.0


class JobManager(SendsSignals):
    """The handle on a kernel that runs as a batch job.

    Implements KernelManager, DescribesFailure, ExplainsDeath, IsListed, MayOutlive, HasHandle,
    MayBecomeUnreachable.

    All managers of a program together make one call for the states of their jobs, once a second or
    as often as the settings say. So the end of a kernel is noticed after about a second.

    While wait() runs, it connects to the machine of the kernel every two seconds. If the machine
    does not answer, the kernel is unreachable, long before the batch system declares that the node
    has failed.

    wait() and is_alive() renew the lease of the kernel. If neither is called for the ``linger``
    seconds of the kernel type, because this program has ended, the job ends; a detached kernel goes
    on. Until then any program can adopt the kernel.

    Attributes:
        kernel_id: a UUID.
        command: the command line on the node.
        job_id: the id of the job.
        detached: whether the kernel outlives its owner without the limit ``linger``.
        ends_at: when the time limit ends the job, in seconds since the epoch; None if unknown.
        reachability: whether the node of the job can be reached.
        info: how this program connects to the kernel; None before the kernel has chosen the ports.
    """

    info: ConnectionInfo | None = None

    def __init__(
        self,
        system: BatchSystem,
        poll: JobPoll,
        folder: JobFolder,
        *,
        linger: float | None,
        warn_seconds: float,
    ) -> None:
        record = folder.record
        super().__init__(record.interrupt_mode)
        self.kernel_id = record.kernel_id
        self.command: Sequence[str] = record.command
        self.job_id = record.place
        self.detached = record.detached
        self.ends_at: float | None = None
        self.reachability = Reachability()
        self._node = ""
        self._watching = anyio.Lock()
        self._system = system
        self._poll = poll
        self._folder = folder
        self._renewal = min(_MOST_RENEWAL_SECONDS, (linger or _MOST_RENEWAL_SECONDS * 4) / 4)
        self._renewed_at = float("-inf")
        self._since = anyio.current_time()
        self._warn_seconds = warn_seconds
        self._is_warned = False
        self._owner = Owner()
        self._end: JobEnd | None = None
        self._ending_since: float | None = None
        self._tail: str | None = None
        self._listed_as = record.listed_as or record.kernel_id
        self._was_signalled = False
        self._cleaning = anyio.Lock()
        self._is_over = False
        self._failing = False

    async def is_alive(self) -> bool:
        """Return whether the job has not ended, as far as the batch system says."""
        self._owner.check("kernel")
        if self._end is None:
            await self.look(recent=True)
        return self._end is None

    async def wait(self) -> int | None:
        """Wait until the job has ended; return the exit status of the kernel, None if unknown.

        While the batch system does not answer, this goes on waiting.
        """
        self._owner.check("kernel")
        async with background_tasks() as tasks:
            tasks.start_soon(self._watch_machine)
            while self._end is None:
                if self._is_over:
                    raise RuntimeError("this kernel has been released and cannot be waited for")
                await self.look()
        return self._end.returncode

    async def probe(self) -> bool:
        """Return whether the node of the job can be reached; take 4 s at most.

        The machine has to answer this program, and the batch system has to reach the node.
        """
        return self._reached(await self._silence() or await self._node_fault())

    async def look(self, *, recent: bool = False) -> JobState | None:
        """Return the state of a queued or running job; None at any other time.

        Args:
            recent: whether the state from the last poll will do.
        """
        await self._renew_lease()
        after = anyio.current_time()
        if recent:  # but not from before the submission
            after = max(after - self._poll.seconds, self._since)
        if self.reachability.problem is not None:
            self._poll.hurry()
        try:
            state = await self._poll.look(self.job_id, after=after)
            if state is None or state.phase in ("ending", "ended"):
                await self._note_end(state)
                return None
        except BatchError as error:
            self._note_failure(error)
            return None
        if self._failing:
            self._failing = False
            logger.info("the batch system answers again for job %s", self.job_id)
        self.ends_at = state.ends_at
        self._node = state.node
        self._warn()
        return state

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel and its child processes; do nothing if the kernel is dead.

        Raises:
            BatchError: the batch system does not answer.
        """
        self._owner.check("kernel")
        if signum and self._end is None:
            self._was_signalled |= signum in (signal.SIGKILL, signal.SIGTERM)
            await self._system.signal(self.job_id, signum)

    async def cleanup(self) -> None:
        """Cancel the job, and remove the folder of the kernel.

        ``cleanup`` takes at most a minute, cannot be cancelled, and may be called again. If the
        batch system does not answer, the job ends after the ``linger`` seconds, and a later launch
        removes the folder.
        """
        if self._owner.is_here:
            await to_the_end(self._clean_up, seconds=_CLEANUP_SECONDS)

    async def detach(self) -> None:
        """Stop managing the kernel, which goes on, so that any program can adopt it.

        A kernel that was not launched detached ends if no program adopts it within the ``linger``
        seconds.
        """
        if not self._is_over and self._owner.is_here:
            self._is_over = True
            self.reachability.end()
            await anyio.to_thread.run_sync(self._folder.ownership.let_go)

    def list_as(self, kernel_id: str) -> None:
        """Give handles this kernel id, which stays the same across restarts."""
        self._listed_as = kernel_id

    def handle(self) -> KernelHandle:
        """Return the handle of the kernel, which outlives this program for some time."""
        record = self._folder.record
        return KernelHandle(
            host=self._system.id,
            kernel_type=record.kernel_type,
            kernel_id=self._listed_as,
            place={"kernel_id": record.kernel_id, "folder": self._folder.path, "job": self.job_id},
        )

    def output_tail(self) -> str:
        """Return the last 64 KiB of standard output and standard error."""
        return self._folder.output_tail() if self._tail is None else self._tail

    def death_reason(self) -> str | None:
        """Return why the job has ended, if more than the exit status is known."""
        if self._end is None or self._end.reason is None or self._was_signalled:
            return None
        return DeathReason(self._end.reason, self._end.cause)

    async def _watch_machine(self) -> None:
        """Keep ``reachability`` up to date; only one task at a time does this."""
        async with self._watching:
            while True:
                if self.reachability.problem is not None:
                    await self.probe()
                elif not self._reached(await self._silence()):
                    self._poll.hurry()
                await anyio.sleep(_CONNECT_SECONDS)

    async def _silence(self) -> str | None:
        """Return why the machine of the kernel does not answer this program."""
        return None if self.info is None else await silence(self.info.ip, self.info.hb_port)

    async def _node_fault(self) -> str | None:
        """Return why the batch system does not reach the node."""
        with anyio.move_on_after(_PROBE_SECONDS):
            try:
                return await self._system.node_fault(self._node) if self._node else None
            except BatchError as error:
                return str(error)
        return f"the batch system has not answered after {_PROBE_SECONDS:g} s"

    def _reached(self, problem: str | None) -> bool:
        """Note whether the kernel can be reached, and return this."""
        if problem is not None:
            self.reachability.lose(problem)
        elif self.reachability.problem is not None:
            self.reachability.regain()
        return problem is None

    async def _renew_lease(self) -> None:
        now = anyio.current_time()
        if now - self._renewed_at >= self._renewal and not self._is_over:
            self._renewed_at = now
            # A network file system may not answer; then the next call renews the lease.
            with anyio.move_on_after(self._renewal):
                await anyio.to_thread.run_sync(self._folder.renew_lease, abandon_on_cancel=True)

    async def _note_end(self, state: JobState | None) -> None:
        """Keep how the job has ended, once the batch system has the final state."""
        now = anyio.current_time()
        self._ending_since = self._ending_since or now
        waiting = now - self._ending_since < _FINAL_SECONDS
        found = await anyio.to_thread.run_sync(self._folder.end)
        # Signals and silence may have reasons that only the final state has.
        is_clear = found is not None and not found.cause and (found.returncode or 0) >= 0
        if state is not None and state.phase == "ending" and waiting and not is_clear:
            return
        end = await self._system.end_of(self.job_id)
        if found is not None:
            # The exit status of the script cannot tell a signal from a number above 128.
            reason = end.reason
            if found.cause == "unclaimed":
                reason = "no program has owned it for the linger seconds of its kernel type"
            end = JobEnd(returncode=found.returncode, reason=reason, cause=end.cause)
        self._tail = await anyio.to_thread.run_sync(self._folder.output_tail)
        self._end = end

    def _note_failure(self, error: BatchError) -> None:
        if not self._failing:
            self._failing = True
            logger.warning("the state of job %s is unknown for now: %s", self.job_id, error)

    def _warn(self) -> None:
        if self.ends_at is None or self._is_warned:
            return
        left = self.ends_at - time.time()
        if left <= self._warn_seconds:
            self._is_warned = True
            logger.warning(
                "kernel %s ends in %d s, at the time limit of its job %s: save your work",
                self._listed_as,
                max(0, round(left)),
                self.job_id,
            )

    async def _clean_up(self) -> None:
        async with self._cleaning:
            if self._is_over:
                return
            try:
                if self.job_id and self._end is None:
                    # A cancelled job may take half a minute to end.
                    await self._system.signal(self.job_id, signal.SIGKILL)
                await self._system.cancel(self._name)
                with anyio.move_on_after(_END_SECONDS):
                    if self.job_id:
                        await self.wait()
            except BatchError as error:
                logger.warning(
                    "the job %s was not cancelled, and ends by itself when its owner is gone: %s",
                    self.job_id or self._name,
                    error,
                )
            else:
                await anyio.to_thread.run_sync(self._folder.remove)
            finally:
                self._end = self._end or JobEnd()
                self._is_over = True
                self.reachability.end()

    @property
    def _name(self) -> str:
        return job_name(self.kernel_id)


def job_name(kernel_id: str) -> str:
    """Return the name of a kernel's job, which finds the job if the id was not stored."""
    return f"kernelproto-{kernel_id}"
