"""The JSON of requests and responses, as defined by Jupyter's REST API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kernelproto.launch.spec.naming import OWN_PYTHON
from kernelproto.pool import PooledKernel
from kernelproto.remote.models import LaunchRequest
from kernelproto.server.directories import MOST_PATH_BYTES, check_path

_INSTALLED = "spec/"
_FORKED = {f"fork/{name}": name for name in OWN_PYTHON}

# The size of each field is checked before the server uses, stores or logs the value.
Identifier = Annotated[str, Meta(max_length=100)]
KernelTypeName = Annotated[str, Meta(max_length=255)]
Title = Annotated[str, Meta(max_length=1000)]
Path = Annotated[str, Meta(max_length=MOST_PATH_BYTES)]
# Linux refuses a variable of 128 KiB or more.
Environment = Annotated[
    dict[Annotated[str, Meta(max_length=255)], Annotated[str, Meta(max_length=128 * 1024)]],
    Meta(max_length=1000),
]


class KernelModel(msgspec.Struct, omit_defaults=True):
    """A kernel.

    Args:
        id: the kernel's id, which stays the same across restarts.
        name: the kernel type.
        last_activity: when the kernel last worked for a user.
        execution_state: "starting", "idle", "busy", "restarting" or "dead"; also "busy" while the
            kernel cannot be reached, because Jupyter's clients know no such state.
        connections: the number of connected clients.
        owner: the kernel's user, in responses to ``include_all``.
        process_started: when the kernel's process was ready. If a client knows an earlier time, the
            variables are gone.
        previous_end: how the previous process with the same id ended; absent for the first one.
        ends_at: when the server will end the kernel if nothing changes; absent if never.
        end_reason: "culled" if a use of the kernel prevents this end, otherwise "expired".
        unreachable: why the server cannot reach the kernel, which may still run; otherwise absent.
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
    unreachable: str | None = None


class SessionModel(msgspec.Struct):
    """A document with its kernel."""

    id: str
    path: str
    name: str
    type: str
    kernel: KernelModel


class KernelSpecModel(msgspec.Struct):
    """A kernel type, with the URLs of its logos and scripts."""

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
        ValueError: a path is too long or has too many parts.
    """

    id: Identifier | None = None
    name: KernelTypeName | None = None
    path: Path | None = None
    kernel_id: Identifier | None = None
    env: Environment | None = None
    launch_params: LaunchRequest | None = None

    def __post_init__(self) -> None:
        """Check the paths."""
        check_path(self.path or "")
        check_path((self.env or {}).get("KERNEL_WORKING_DIR", ""))

    @property
    def sandbox(self) -> dict[str, Any] | None:
        """The settings of the requested sandbox; None without a request."""
        return None if self.launch_params is None else self.launch_params.sandbox


class SessionRequest(msgspec.Struct):
    """A client's request for a session.

    Raises:
        ValueError: the path is too long or has too many parts.
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
        ValueError: the path is too long or has too many parts.
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
        execution_state="busy" if kernel.state == "unreachable" else kernel.state,
        connections=kernel.connections,
        owner=kernel.user if with_owner else None,
        process_started=None if started is None else timestamp(started),
        previous_end=kernel.previous_end,
        ends_at=None if kernel.end is None else timestamp(kernel.end.at),
        end_reason=None if kernel.end is None else kernel.end.reason,
        unreachable=kernel.unreachable,
    )


def shown_name(kernel_type: str) -> str:
    """Return a kernel type's name for clients; for an installed kernelspec, Jupyter's name."""
    return _FORKED.get(kernel_type) or kernel_type.removeprefix(_INSTALLED)


def timestamp(moment: datetime) -> str:
    """Return a time in UTC in ISO 8601 with microseconds and a Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
