"""The JSON that clients send and get, as Jupyter's clients know it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kernelproto.pool import PooledKernel
from kernelproto.server.directories import MOST_PATH_BYTES, check_path

_INSTALLED = "spec/"

# Nothing that a client sends is looked at, kept or repeated in a log before its size is checked.
Identifier = Annotated[str, Meta(max_length=100)]
KernelTypeName = Annotated[str, Meta(max_length=255)]
Title = Annotated[str, Meta(max_length=1000)]
Path = Annotated[str, Meta(max_length=MOST_PATH_BYTES)]
# The system takes no variable of 128 KiB or more.
Environment = Annotated[
    dict[Annotated[str, Meta(max_length=255)], Annotated[str, Meta(max_length=128 * 1024)]],
    Meta(max_length=1000),
]


class KernelModel(msgspec.Struct, omit_defaults=True):
    """A kernel.

    Args:
        id: its id, which outlives restarts.
        name: its kernel type.
        last_activity: when it last did something for a user.
        execution_state: whether it is idle, busy, starting or being restarted.
        connections: how many clients are connected.
        owner: whose it is; for admins who look at everybody's.
        process_started: when its process was ready. A client that knows an earlier time knows that
            its variables are gone.
        previous_end: how the process before it ended that had the same id; absent for the first.
        ends_at: when the server will end it if it stays as it is; absent if it won't.
        end_reason: "culled" if a use of the kernel prevents this end, "expired" if nothing does.
    """

    id: str
    name: str
    last_activity: str
    execution_state: str
    connections: int
    owner: str | None = None
    process_started: str | None = None
    previous_end: str | None = None
    ends_at: str | None = None
    end_reason: str | None = None


class SessionModel(msgspec.Struct):
    """A document, and the kernel that it has."""

    id: str
    path: str
    name: str
    type: str
    kernel: KernelModel


class KernelSpecModel(msgspec.Struct):
    """A kernel type, and the addresses of its logos and scripts."""

    name: str
    spec: dict[str, Any]
    resources: dict[str, str]


class KernelSpecList(msgspec.Struct):
    """All kernel types."""

    default: str
    kernelspecs: dict[str, KernelSpecModel]


class KernelRequest(msgspec.Struct):
    """A client's request for a kernel.

    Raises:
        ValueError: a path is too long, or has too many parts.
    """

    id: Identifier | None = None
    name: KernelTypeName | None = None
    path: Path | None = None
    kernel_id: Identifier | None = None
    env: Environment | None = None

    def __post_init__(self) -> None:
        """Check the paths."""
        check_path(self.path or "")
        check_path((self.env or {}).get("KERNEL_WORKING_DIR", ""))


class SessionRequest(msgspec.Struct):
    """A client's request for a session.

    Raises:
        ValueError: the path is too long, or has too many parts.
    """

    path: Path
    type: Identifier
    name: Title | None = None
    kernel: KernelRequest | None = None

    def __post_init__(self) -> None:
        """Check the path."""
        check_path(self.path)


class SessionChange(msgspec.Struct):
    """A client's request to change a session.

    Raises:
        ValueError: the path is too long, or has too many parts.
    """

    path: Path | None = None
    name: Title | None = None
    type: Identifier | None = None
    kernel: KernelRequest | None = None

    def __post_init__(self) -> None:
        """Check the path."""
        check_path(self.path or "")


def kernel_model(kernel: PooledKernel, *, with_owner: bool = False) -> KernelModel:
    """Return the model of a kernel."""
    started = kernel.process_started_at
    return KernelModel(
        id=kernel.kernel_id,
        name=shown_name(kernel.kernel_type),
        last_activity=timestamp(kernel.last_activity),
        execution_state=kernel.state,
        connections=kernel.connections,
        owner=kernel.user if with_owner else None,
        process_started=None if started is None else timestamp(started),
        previous_end=kernel.previous_end,
        ends_at=None if kernel.end is None else timestamp(kernel.end.at),
        end_reason=None if kernel.end is None else kernel.end.reason,
    )


def shown_name(kernel_type: str) -> str:
    """Return a kernel type's name for clients: an installed kernelspec has Jupyter's own."""
    return kernel_type.removeprefix(_INSTALLED)


def timestamp(moment: datetime) -> str:
    """Return a time in UTC as clients read it: always with microseconds, and with a Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
