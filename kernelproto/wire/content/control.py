"""Contents of the control channel.

Specification: "Messages on the control (ROUTER/DEALER) channel".
"""

from __future__ import annotations

from typing import Any

from kernelproto.wire.content.base import Reply, Request


class ShutdownRequest(Request, frozen=True, kw_only=True):
    """Ask the kernel to end. Section "Kernel shutdown"."""

    restart: bool = False


class ShutdownReply(Reply, frozen=True, kw_only=True):
    """The kernel is about to end; also published on iopub."""

    restart: bool = False


class InterruptRequest(Request, frozen=True, kw_only=True):
    """Interrupt the running code. Section "Kernel interrupt"."""


class InterruptReply(Reply, frozen=True, kw_only=True):
    """The interrupt was delivered."""


class CreateSubshellRequest(Request, frozen=True, kw_only=True):
    """Ask for a new subshell. Section "Create subshell"."""


class CreateSubshellReply(Reply, frozen=True, kw_only=True):
    """The new subshell's id."""

    subshell_id: str = ""


class DeleteSubshellRequest(Request, frozen=True, kw_only=True):
    """End a subshell. Section "Delete subshell"."""

    subshell_id: str


class DeleteSubshellReply(Reply, frozen=True, kw_only=True):
    """The subshell is ended."""


class ListSubshellRequest(Request, frozen=True, kw_only=True):
    """Ask for the subshells. Section "List subshells"."""


class ListSubshellReply(Reply, frozen=True, kw_only=True):
    """The ids of the subshells."""

    subshell_id: list[str] = []


class UsageRequest(Request, frozen=True, kw_only=True):
    """Ask for the kernel's use of memory and CPU; an extension of ipykernel."""


class UsageReply(Reply, frozen=True, kw_only=True):
    """The kernel's memory, in bytes, and CPU, in per cent; None where it can't be read."""

    hostname: str = ""
    pid: int | None = None
    kernel_cpu: float | None = None
    kernel_memory: int | None = None
    cpu_count: int | None = None
    host_cpu_percent: float | None = None
    host_virtual_memory: dict[str, Any] = {}
