"""The settings of kernels that run as batch jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from kernelproto.launch.batch.system import JobOptions
from kernelproto.launch.spec.configuration import ConfiguredKernels, KernelSettings

Path = Annotated[str, msgspec.Meta(pattern=r"\A/[^\0\n\r\\]+\Z")]
Address = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,3}(\.[0-9]{1,3}){3}\Z")]
Line = Annotated[str, msgspec.Meta(pattern=r"\A[^\0\n\r]*\Z")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=10**8)]
Linger = Annotated[float, msgspec.Meta(ge=5, le=10**8)]

# The launch parameters of kernel types without a schema in the settings.
DEFAULT_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "partition": {"type": "string"},
        "account": {"type": "string"},
        "qos": {"type": "string"},
        "time": {"type": ["integer", "string"]},
        "memory": {"type": "integer", "minimum": 1},
        "cpus": {"type": "integer", "minimum": 1},
        "gpus": {"type": "integer", "minimum": 1},
    },
}


class BatchKernel(KernelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kernel type that runs as a batch job.

    Args:
        command: the command line on the node; ``{connection_file}`` is filled in. The kernel must
            choose ports and replace port 0 in the connection file, as ipykernel does.
        display_name: for people.
        language: the programming language.
        interrupt_mode: ``"signal"``, or ``"message"`` for an interrupt_request.
        env: environment variables. Of the variables of this program, jobs get only those that
            Slurm needs, such as PATH and HOME.
        prologue: lines of a shell script that run first, such as ``module load python``.
        python: a Python of the node, 3.8 or newer, that runs the first process of the job.
        job: the options of jobs, for launches without the same parameter.
        schema: a JSON Schema for the launch parameters ``partition``, ``account``, ``qos``,
            ``reservation``, ``constraint``, ``time``, ``memory``, ``cpus``, ``gpus``. A parameter
            that the schema does not declare is refused. By default a launch may give all but
            ``reservation`` and ``constraint``, and the batch system decides.
        bind: the IPv4 address that the kernel binds on the node.
        encryption: whether the kernel supports CurveZMQ, as ipykernel does from 7.3 on.
        linger: seconds from the end of the owner to the end of the job; a launch with ``detached``
            runs on, up to the time limit.
        queue_seconds: seconds in the queue after which a launch gives up; None leaves the limit to
            the caller.
        start_seconds: seconds from the start of the job until the kernel listens.
        warn_seconds: seconds before the time limit at which a warning is logged.
    """

    prologue: tuple[Line, ...] = ()
    python: Line = "python3"
    job: JobOptions = JobOptions()
    schema: Mapping[str, Any] = msgspec.field(default_factory=lambda: DEFAULT_SCHEMA)
    bind: Address = "0.0.0.0"
    encryption: bool = True
    linger: Linger = 300.0
    queue_seconds: Seconds | None = 86400.0
    start_seconds: Seconds = 120.0
    warn_seconds: Seconds = 300.0


class BatchSettings(ConfiguredKernels, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a provider of batch jobs; see there."""

    kernels: Mapping[str, BatchKernel] = {}
    folder: Path | None = None
    poll_seconds: Annotated[float, msgspec.Meta(ge=0.05, le=60)] = 1.0
    config: Path | None = None
