"""Discover, launch, supervise and talk to Jupyter kernels, on asyncio and Trio."""

import typing

from kernelproto.client import Comm, Execution, ExecutionResult, KernelClient, MessageStream
from kernelproto.exceptions import (
    ClientClosed,
    DiscoveryError,
    ExecutionError,
    InvalidKernelSpec,
    InvalidLaunchParameter,
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
    ProtocolError,
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
    "InvalidSignature",
    "Kernel",
    "KernelClient",
    "KernelDied",
    "KernelEvents",
    "KernelExitedEarly",
    "KernelFinder",
    "KernelManager",
    "KernelNotReady",
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
    "ProtocolError",
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
    # The door for synchronous code needs thread pools. Loading them takes a fifth of the whole, and
    # a program with an event loop of its own has no use for them.
    if name in __all__:
        from kernelproto import blocking

        return getattr(blocking, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
