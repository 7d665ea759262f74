"""Supervise kernels from launch to end, across restarts."""

from kernelproto.supervise.events import (
    Died,
    Failed,
    KernelEvent,
    KernelEvents,
    Reachable,
    Restarted,
    Unreachable,
)
from kernelproto.supervise.kernel import Kernel, let_go, open_kernel
from kernelproto.supervise.restart_policy import Backoff, RestartPolicy
from kernelproto.supervise.restarter import KernelRestarter

__all__ = [
    "Backoff",
    "Died",
    "Failed",
    "Kernel",
    "KernelEvent",
    "KernelEvents",
    "KernelRestarter",
    "Reachable",
    "RestartPolicy",
    "Restarted",
    "Unreachable",
    "let_go",
    "open_kernel",
]
