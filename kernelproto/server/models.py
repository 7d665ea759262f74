"""The JSON that clients send and get, as Jupyter's clients know it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from kernelproto.pool import PooledKernel

_INSTALLED = "spec/"


class KernelModel(msgspec.Struct, omit_defaults=True):
    """A kernel; the owner is told to admins who look at everybody's."""

    id: str
    name: str
    last_activity: str
    execution_state: str
    connections: int
    owner: str | None = None


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
    """What a client says about the kernel that it wants."""

    id: str | None = None
    name: str | None = None
    path: str | None = None
    kernel_id: str | None = None
    env: dict[str, str] | None = None


class SessionRequest(msgspec.Struct):
    """What a client says about a session that it wants."""

    path: str
    type: str
    name: str | None = None
    kernel: KernelRequest | None = None


class SessionChange(msgspec.Struct):
    """What a client wants to be different about a session."""

    path: str | None = None
    name: str | None = None
    type: str | None = None
    kernel: KernelRequest | None = None


def kernel_model(kernel: PooledKernel, *, with_owner: bool = False) -> KernelModel:
    """Return the model of a kernel."""
    return KernelModel(
        id=kernel.kernel_id,
        name=shown_name(kernel.kernel_type),
        last_activity=timestamp(kernel.last_activity),
        execution_state=kernel.state,
        connections=kernel.connections,
        owner=kernel.user if with_owner else None,
    )


def shown_name(kernel_type: str) -> str:
    """Return a kernel type's name for clients: an installed kernelspec has Jupyter's own."""
    return kernel_type.removeprefix(_INSTALLED)


def timestamp(moment: datetime) -> str:
    """Return a time in UTC as clients read it: always with microseconds, and with a Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
