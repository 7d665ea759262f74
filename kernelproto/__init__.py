"""Discover, launch, supervise and talk to Jupyter kernels, on asyncio and Trio."""

from kernelproto.blocking import (
    BlockingClient,
    BlockingKernel,
    connect_kernel_blocking,
    run_kernel_blocking,
    start_kernel_blocking,
)
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
from kernelproto.supervise import Kernel
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

__version__ = "0.1.0"

__all__ = [
    "BlockingClient",
    "BlockingKernel",
    "ClearOutput",
    "ClientClosed",
    "Comm",
    "ConnectionInfo",
    "DiscoveryError",
    "DisplayData",
    "ErrorOutput",
    "ExecuteResult",
    "Execution",
    "ExecutionError",
    "ExecutionResult",
    "InputRequest",
    "InvalidKernelSpec",
    "InvalidLaunchParameter",
    "InvalidSignature",
    "Kernel",
    "KernelClient",
    "KernelDied",
    "KernelExitedEarly",
    "KernelFinder",
    "KernelManager",
    "KernelNotReady",
    "KernelProtoError",
    "KernelProvider",
    "LaunchError",
    "LocalProtocolError",
    "MalformedMessage",
    "MessageStream",
    "NoSuchKernel",
    "OutputOverflow",
    "ProtocolError",
    "RemoteProtocolError",
    "ReplayedMessage",
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
