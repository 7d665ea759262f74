"""Discover, launch, supervise and talk to Jupyter kernels, on asyncio and Trio."""

import importlib
import typing

from kernelproto.client import Comm, Execution, ExecutionResult, KernelClient, MessageStream
from kernelproto.exceptions import (
    ClientClosed,
    DiscoveryError,
    ExecutionError,
    InvalidKernelSpec,
    InvalidLaunchParameter,
    InvalidSettings,
    InvalidSignature,
    KernelDied,
    KernelExitedEarly,
    KernelNotReady,
    KernelProtoError,
    KernelRestarted,
    LaunchError,
    LocalProtocolError,
    MalformedMessage,
    NoSuchKernel,
    OutputOverflow,
    PoolError,
    PoolFull,
    ProtocolError,
    QuotaExceeded,
    RemoteProtocolError,
    ReplayedMessage,
    UnsupportedRequest,
)
from kernelproto.interfaces import KernelManager, KernelProvider
from kernelproto.launch.finder import KernelFinder
from kernelproto.run import connect_kernel, run_kernel, start_kernel
from kernelproto.supervise import (
    Backoff,
    Died,
    Failed,
    Kernel,
    KernelEvents,
    KernelRestarter,
    Restarted,
    RestartPolicy,
)
from kernelproto.timeouts import Timeouts
from kernelproto.wire import ConnectionInfo
from kernelproto.wire.content import (
    ClearOutput,
    DisplayData,
    ErrorOutput,
    ExecuteResult,
    InputRequest,
    Stream,
    UpdateDisplayData,
)

if typing.TYPE_CHECKING:
    from kernelproto.blocking import (
        BlockingClient,
        BlockingKernel,
        connect_kernel_blocking,
        run_kernel_blocking,
        start_kernel_blocking,
    )
    from kernelproto.pool import KernelPool

__version__ = "0.1.0"

__all__ = [
    "Backoff",
    "BlockingClient",
    "BlockingKernel",
    "ClearOutput",
    "ClientClosed",
    "Comm",
    "ConnectionInfo",
    "Died",
    "DiscoveryError",
    "DisplayData",
    "ErrorOutput",
    "ExecuteResult",
    "Execution",
    "ExecutionError",
    "ExecutionResult",
    "Failed",
    "InputRequest",
    "InvalidKernelSpec",
    "InvalidLaunchParameter",
    "InvalidSettings",
    "InvalidSignature",
    "Kernel",
    "KernelClient",
    "KernelDied",
    "KernelEvents",
    "KernelExitedEarly",
    "KernelFinder",
    "KernelManager",
    "KernelNotReady",
    "KernelPool",
    "KernelProtoError",
    "KernelProvider",
    "KernelRestarted",
    "KernelRestarter",
    "LaunchError",
    "LocalProtocolError",
    "MalformedMessage",
    "MessageStream",
    "NoSuchKernel",
    "OutputOverflow",
    "PoolError",
    "PoolFull",
    "ProtocolError",
    "QuotaExceeded",
    "RemoteProtocolError",
    "ReplayedMessage",
    "RestartPolicy",
    "Restarted",
    "Stream",
    "Timeouts",
    "UnsupportedRequest",
    "UpdateDisplayData",
    "__version__",
    "connect_kernel",
    "connect_kernel_blocking",
    "run_kernel",
    "run_kernel_blocking",
    "start_kernel",
    "start_kernel_blocking",
]


def __getattr__(name: str) -> object:
    # Synchronous code and many users are the business of few programs. The others are spared a
    # quarter of the time that it takes to load everything.
    if name in __all__:
        room = "kernelproto.pool" if name == "KernelPool" else "kernelproto.blocking"
        return getattr(importlib.import_module(room), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
