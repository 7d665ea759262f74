"""SlurmSystem: the programs of Slurm, 20.11 or newer."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from datetime import datetime

from kernelproto.interfaces import DeathCause
from kernelproto.launch.batch.system import BatchError, Job, JobEnd, JobOptions, JobState, Phase
from kernelproto.launch.command import Completed, run_command

_CALL_SECONDS = 30.0
_QUOTED_CHARACTERS = 500

# The variables that the programs of Slurm, and through them the jobs, get from this program. Other
# variables of this program may hold secrets, or describe the job in which the program runs.
_INHERITED = {"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "SLURM_CONF", "TZ", "USER"}

_SEPARATOR = "|"
_FIELDS = "%i|%T|%B|%e|%j|%r"

_PHASES: dict[str, Phase] = {
    "configuring": "queued",
    "pending": "queued",
    "requeued": "queued",
    "requeue_fed": "queued",
    "requeue_hold": "queued",
    "resv_del_hold": "queued",
    "special_exit": "queued",
    "completing": "ending",
    "signaling": "running",
    "resizing": "running",
    "running": "running",
    "stage_out": "ending",
    "stopped": "running",
    "suspended": "running",
}

_REASONS: dict[str, tuple[str, DeathCause]] = {
    "boot_fail": ("the node of its job could not be booted", "other"),
    "cancelled": ("its job was cancelled", "other"),
    "deadline": ("its job reached its deadline", "other"),
    "node_fail": ("the node of its job failed", "other"),
    "out_of_memory": ("its job used up its memory: ask for more", "memory_limit"),
    "preempted": ("its job was preempted by another one", "other"),
    "revoked": ("its job was revoked by another cluster", "other"),
    "timeout": ("its job reached its time limit: ask for more time", "other"),
}

# The most common reasons of Slurm in words; "man squeue" has the others.
_QUEUE_REASONS = {
    "None": "it was not considered yet",
    "Priority": "jobs with a higher priority come first",
    "Resources": "the resources are in use",
    "PartitionDown": "the partition is down",
    "PartitionTimeLimit": "its time limit is above that of the partition",
    "QOSMaxJobsPerUserLimit": "this user runs as many jobs as allowed",
    "AssocGrpCpuLimit": "the account uses as many processors as allowed",
    "ReqNodeNotAvail": "a node that it needs is not available",
}


class SlurmSystem:
    """Calls sbatch, squeue, scontrol and scancel.

    Args:
        config: the path of ``slurm.conf``; None means that of the environment or the installation.
    """

    id = "slurm"

    def __init__(self, config: str | None = None) -> None:
        self._config = config
        self._addresses: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<SlurmSystem {self._config or 'default'}>"

    def fault(self) -> str | None:
        """Return why Slurm cannot be used, as far as known without a call."""
        missing = [name for name in ("sbatch", "squeue", "scontrol", "scancel") if not _path(name)]
        if not missing:
            return None
        return f"{' and '.join(missing)} of Slurm is not on PATH: install the programs of Slurm"

    async def submit(self, job: Job) -> str:
        """Submit a job; return the id.

        Raises:
            BatchError: Slurm has refused the job, or does not answer.
        """
        text = await self._call(*submit_command(job), input=job.script)
        job_id = text.strip().partition(";")[0]
        if not job_id.isdecimal():
            raise BatchError(f"sbatch gave no job id: {text.strip()[:_QUOTED_CHARACTERS]!r}")
        return job_id

    async def jobs(self) -> Mapping[str, JobState]:
        """Return the states of all listed jobs of this user, even of ended ones."""
        user = f"--user={os.getuid()}"
        text = await self._call("squeue", "--noheader", "--states=all", user, f"--format={_FIELDS}")
        return parse_jobs(text)

    async def places(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the places of pending jobs among those of their partitions, by priority."""
        text = await self._call(
            "squeue", "--noheader", "--states=PENDING", "--sort=-p,i", "--format=%i|%P"
        )
        return parse_places(text, job_ids)

    async def end_of(self, job_id: str) -> JobEnd:
        """Return how a job has ended; nothing is known of a job that Slurm has forgotten."""
        done = await self._run("scontrol", "show", "job", "--oneliner", job_id)
        if done.returncode != 0:
            if "Invalid job id" in done.stderr:
                return JobEnd(returncode=None)
            raise _refusal("scontrol", done)
        return parse_end(done.stdout)

    async def signal(self, job_id: str, signum: int) -> None:
        """Send a signal to the script of a running job; do nothing if the job has ended."""
        done = await self._run("scancel", "--batch", f"--signal={int(signum)}", job_id)
        if done.returncode != 0 and not _ENDED.search(done.stderr):
            raise _refusal("scancel", done)

    async def cancel(self, name: str) -> None:
        """End all jobs of this user with this name."""
        done = await self._run("scancel", f"--user={_user()}", f"--name={name}")
        if done.returncode != 0 and not _ENDED.search(done.stderr):
            raise _refusal("scancel", done)

    async def node_fault(self, node: str) -> str | None:
        """Return why a node cannot be reached; None if Slurm knows no reason."""
        return parse_node_fault(await self._call("scontrol", "show", "node", "--oneliner", node))

    async def address(self, node: str) -> str:
        """Return the address at which Slurm reaches a node."""
        if node not in self._addresses:
            text = await self._call("scontrol", "show", "node", "--oneliner", node)
            self._addresses[node] = _value(text, "NodeAddr") or node
        return self._addresses[node]

    async def _call(self, *command: str, input: str = "") -> str:
        done = await self._run(*command, input=input)
        if done.returncode != 0:
            raise _refusal(command[0], done)
        return done.stdout

    async def _run(self, *command: str, input: str = "") -> Completed:
        path = _path(command[0])
        if path is None:
            raise BatchError(self.fault() or f"{command[0]} is not on PATH")
        env = {
            name: value
            for name, value in os.environ.items()
            if name in _INHERITED or name.startswith("LC_")
        }
        if self._config is not None:
            env["SLURM_CONF"] = self._config
        # Times are read in the time zone of this program.
        env["SLURM_TIME_FORMAT"] = "standard"
        try:
            return await run_command(
                [path, *command[1:]], seconds=_CALL_SECONDS, input=input, env=env
            )
        except TimeoutError:
            raise BatchError(
                f"{command[0]} has not answered after {_CALL_SECONDS:g} s: the controller of Slurm "
                "may be down"
            ) from None
        except OSError as error:
            raise BatchError(f"{path} cannot be run: {error.strerror}") from error


def submit_command(job: Job) -> list[str]:
    """Return the command line that submits a job; standard input has the script."""
    return [
        "sbatch",
        "--parsable",
        "--no-requeue",
        "--nodes=1",
        "--ntasks=1",
        f"--job-name={job.name}",
        f"--chdir={job.folder}",
        f"--output={job.output.replace('%', '%%')}",
        "--open-mode=append",
        *_options(job.options),
    ]


def parse_jobs(text: str) -> dict[str, JobState]:
    """Return the jobs in the output of squeue; lines of another form are skipped."""
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        fields = line.split(_SEPARATOR, 5)
        if len(fields) != 6:
            continue
        job_id, word, node, ends, name, reason = (field.strip() for field in fields)
        phase = _PHASES.get(word.lower(), "ended")
        found[job_id] = JobState(
            job_id=job_id,
            name=name,
            phase=phase,
            word=word,
            reason=_why_queued(reason) if phase == "queued" else "",
            node="" if node in ("n/a", "(null)", "None assigned") else node,
            ends_at=_time(ends) if phase == "running" else None,
        )
    return found


def parse_places(text: str, job_ids: Sequence[str]) -> dict[str, int]:
    """Return the places of some jobs in the output of squeue, which is sorted by priority."""
    counts: dict[str, int] = {}
    found: dict[str, int] = {}
    for line in text.splitlines():
        job_id, _, partition = line.strip().partition(_SEPARATOR)
        counts[partition] = counts.get(partition, 0) + 1
        if job_id in job_ids:
            found.setdefault(job_id, counts[partition])
    return found


def parse_end(text: str) -> JobEnd:
    """Return how a job has ended, from the output of scontrol."""
    word = (_value(text, "JobState") or "").lower()
    known = _REASONS.get(word)
    reason = known[0] if known else None
    cause: DeathCause = known[1] if known else "other"
    node = _value(text, "BatchHost")
    if word == "node_fail":
        # Slurm reports no exit status of the kernel, which may even live on.
        words = f"{reason} ({node})" if node else reason
        return JobEnd(returncode=None, reason=words, cause=cause)
    if word == "timeout" and (limit := _value(text, "TimeLimit")):
        reason = f"its job reached its time limit of {limit}: ask for more time"
    status, _, signum = (_value(text, "ExitCode") or "").partition(":")
    returncode = None
    if status.isdecimal() and signum.isdecimal():
        returncode = -int(signum) if int(signum) else int(status)
    if word in ("cancelled", "timeout") and not returncode:
        returncode = -signal.SIGTERM if word == "cancelled" else None
    return JobEnd(returncode=returncode, reason=reason, cause=cause)


def parse_node_fault(text: str) -> str | None:
    """Return why a node cannot be reached, from the output of scontrol."""
    state = _value(text, "State") or ""
    if not _UNREACHABLE.search(state):
        return None
    return f"the node {_value(text, 'NodeName')} of its job does not answer Slurm, and is {state}"


# Slurm marks nodes that do not answer with the word, and with "*" in older versions.
_UNREACHABLE = re.compile(r"\ADOWN|NOT_RESPONDING|\*")

_ENDED = re.compile(
    r"Invalid job id|already completing or completed|no active|not running|is pending",
    re.IGNORECASE,
)


def _options(options: JobOptions) -> list[str]:
    minutes = options.time
    return [
        f"--{name}={value}"
        for name, value in (
            ("partition", options.partition),
            ("account", options.account),
            ("qos", options.qos),
            ("reservation", options.reservation),
            ("constraint", options.constraint),
            ("time", minutes),
            ("mem", None if options.memory is None else f"{options.memory}M"),
            ("cpus-per-task", options.cpus),
            ("gpus", options.gpus),
        )
        if value is not None
    ]


def _value(text: str, key: str) -> str | None:
    """Return a value in the output of ``scontrol --oneliner``."""
    found = re.search(rf"(?:^|\s){key}=(\S*)", text)
    return None if found is None or found[1] in ("", "(null)") else found[1]


def _why_queued(reason: str) -> str:
    reason = reason.strip("()")
    words = _QUEUE_REASONS.get(reason.split(",")[0])
    return f"{reason}: {words}" if words else reason


def _time(text: str) -> float | None:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").timestamp()
    except ValueError:
        return None


def _user() -> str:
    import pwd  # which Windows does not have

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _path(name: str) -> str | None:
    return shutil.which(name)


def _refusal(program: str, done: Completed) -> BatchError:
    stderr = done.stderr.strip()[-_QUOTED_CHARACTERS:]
    return BatchError(f"{program} has failed: {stderr or f'exit status {done.returncode}'}")
