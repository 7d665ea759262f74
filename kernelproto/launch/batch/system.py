"""BatchSystem: the interface of a batch system such as Slurm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol

import msgspec

from kernelproto.exceptions import LaunchError
from kernelproto.interfaces import DeathCause

# Names that need no quoting in a shell, and are no options.
Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.,+-]{0,127}\Z")]
Features = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.,+&|*:-]{0,127}\Z")]
Duration = (
    Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    | Annotated[
        str,
        msgspec.Meta(
            pattern=r"\A([1-9][0-9]{0,6}"
            r"|[0-9]{1,4}(-[0-9]{1,2}(:[0-9]{2}){0,2}|(:[0-9]{2}){1,2}))\Z"
        ),
    ]
)
Mebibytes = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10**5)]

Phase = Literal["queued", "running", "ending", "ended"]


class BatchError(LaunchError):
    """The batch system cannot be used now, or has refused a call."""


class JobOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The resources that a job asks for; None leaves the choice to the batch system.

    Args:
        partition: the partition or queue; several are separated by commas.
        account: the account that is charged.
        qos: the quality of service.
        reservation: the reservation.
        constraint: the features of the node.
        time: the time limit: minutes, or a text such as ``"1:30:00"`` or ``"2-12"``.
        memory: mebibytes of memory.
        cpus: number of processors.
        gpus: number of graphics processors.
    """

    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    reservation: Name | None = None
    constraint: Features | None = None
    time: Duration | None = None
    memory: Mebibytes | None = None
    cpus: Count | None = None
    gpus: Count | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be submitted.

    Args:
        name: the name of the job, which finds the job if the submission is cut off.
        script: the text of the shell script.
        folder: the working directory of the job.
        output: the file for the output of the script.
        options: the resources that the job asks for.
    """

    name: str
    script: str
    folder: str
    output: str
    options: JobOptions


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a job.

    Args:
        job_id: the id of the job.
        name: the name of the job.
        phase: the state in the terms of this package; "ending" means that the kernel is dead or
            being killed.
        word: the state in the terms of the batch system.
        reason: why the job is queued.
        node: the node on which the script runs; "" if there is none.
        ends_at: when the time limit ends the job, in seconds since the epoch; None if unknown.
    """

    job_id: str
    name: str
    phase: Phase
    word: str
    reason: str = ""
    node: str = ""
    ends_at: float | None = None


class JobEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a job.

    Args:
        returncode: the exit status of the script, negative for a signal; None if unknown.
        reason: why the job has ended, if the exit status does not say this.
        cause: the kind of the reason.
    """

    returncode: int | None = None
    reason: str | None = None
    cause: DeathCause = "other"


class BatchSystem(Protocol):
    """Calls the programs of a batch system.

    Attributes:
        id: the id of the provider.
    """

    id: str

    def fault(self) -> str | None:
        """Return why the system cannot be used, as far as known without a call."""
        ...

    async def submit(self, job: Job) -> str:
        """Submit a job; return the id.

        Raises:
            BatchError: the system has refused the job, or does not answer.
        """
        ...

    async def jobs(self) -> Mapping[str, JobState]:
        """Return the states of all jobs of this user that the system still lists, in one call.

        Raises:
            BatchError: the system does not answer.
        """
        ...

    async def places(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the places of queued jobs in their queues, from 1, as far as they can be known.

        Raises:
            BatchError: the system does not answer.
        """
        ...

    async def end_of(self, job_id: str) -> JobEnd:
        """Return how a job has ended that is "ended" or not listed any more.

        Raises:
            BatchError: the system does not answer.
        """
        ...

    async def signal(self, job_id: str, signum: int) -> None:
        """Send a signal to the script of a running job; do nothing if the job has ended.

        Raises:
            BatchError: the system does not answer.
        """
        ...

    async def cancel(self, name: str) -> None:
        """End all jobs of this user with this name, queued or running.

        Raises:
            BatchError: the system does not answer.
        """
        ...

    async def node_fault(self, node: str) -> str | None:
        """Return why a node cannot be reached; None if the system knows no reason.

        Raises:
            BatchError: the system does not answer.
        """
        ...

    async def address(self, node: str) -> str:
        """Return the address or host name of a node.

        Raises:
            BatchError: the system does not answer.
        """
        ...
