"""JobPoll: asks a batch system for the states of all jobs, in one call for all tasks that wait.

One of the waiting tasks makes the call, and the others use its result. So there is no task in the
background. If the calling task is cancelled, the next task makes the call.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio
from anyio.lowlevel import RunVar

from kernelproto.launch.batch.system import BatchError, BatchSystem, JobState

# How often the places of queued jobs are asked for: the answer has all queued jobs of the cluster.
_PLACES_SECONDS = 10.0

# The longest time between two calls while a kernel cannot be reached.
_HURRIED_SECONDS = 1.0

_polls = RunVar["dict[tuple[BatchSystem, float], JobPoll]"]("kernelproto.launch.batch.polls")


class JobPoll:
    """The states of the jobs of this user.

    Args:
        system: the batch system.
        seconds: the least time between two calls.

    Attributes:
        seconds: the same.
    """

    def __init__(self, system: BatchSystem, seconds: float) -> None:
        self.seconds = seconds
        self._system = system
        self._lock = anyio.Lock()
        self._called_at = float("-inf")
        self._pause = anyio.CancelScope()
        self._jobs: Mapping[str, JobState] = {}
        self._error: BatchError | None = None
        self._places: Mapping[str, int] = {}
        self._placed_at = float("-inf")

    async def look(self, job_id: str, *, after: float) -> JobState | None:
        """Return the state of a job; None if the system does not list the job.

        Args:
            job_id: the id of the job.
            after: the earliest time of the call that asked for the state, on the clock of
                ``anyio.current_time``.

        Raises:
            BatchError: the system does not answer.
        """
        async with self._lock:
            if self._called_at < after:
                deadline = self._called_at + self.seconds
                with anyio.CancelScope(deadline=deadline) as self._pause:
                    await anyio.sleep_forever()
                await self._call()
        if self._error is not None:
            raise BatchError(str(self._error)) from self._error
        return self._jobs.get(job_id)

    def hurry(self) -> None:
        """Let the next call come a second after the last one, if that is earlier."""
        soon = self._called_at + _HURRIED_SECONDS
        self._pause.deadline = min(self._pause.deadline, soon)

    async def place(self, job_id: str) -> int | None:
        """Return the place of a queued job in the queue, not older than 10 s; None if unknown."""
        async with self._lock:
            if anyio.current_time() - self._placed_at > _PLACES_SECONDS:
                queued = [job.job_id for job in self._jobs.values() if job.phase == "queued"]
                self._placed_at = anyio.current_time()
                try:
                    self._places = await self._system.places(queued)
                except BatchError:
                    self._places = {}
        return self._places.get(job_id)

    async def _call(self) -> None:
        called_at = anyio.current_time()
        try:
            self._jobs = await self._system.jobs()
            self._error = None
        except BatchError as error:
            self._error = error
        self._called_at = called_at


def poll_of(system: BatchSystem, seconds: float) -> JobPoll:
    """Return the JobPoll of this event loop for a batch system."""
    try:
        polls = _polls.get()
    except LookupError:
        polls = dict[tuple[BatchSystem, float], JobPoll]()
        _polls.set(polls)
    return polls.setdefault((system, seconds), JobPoll(system, seconds))
