"""Discover, launch, supervise and talk to Jupyter kernels, on asyncio and Trio."""

import importlib
import typing

if typing.TYPE_CHECKING:
    from kernelproto.blocking import (
        BlockingClient,
        BlockingKernel,
        adopt_kernel_blocking,
        connect_kernel_blocking,
        run_kernel_blocking,
        start_kernel_blocking,
    )
    from kernelproto.client import (
        Comm,
        Execution,
        ExecutionResult,
        KernelClient,
        MessageStream,
        RefusedOutput,
    )
    from kernelproto.concurrency.reachability import Reachability
    from kernelproto.exceptions import (
        AuthenticatorUnavailable,
        CellTimeout,
        ClientClosed,
        DiscoveryError,
        ExecutionError,
        ExecutionTimeout,
        InvalidKernelSpec,
        InvalidLaunchParameter,
        InvalidNotebook,
        InvalidParameter,
        InvalidSettings,
        InvalidSignature,
        IPykernelMissing,
        KernelDied,
        KernelExitedEarly,
        KernelInUse,
        KernelNotReady,
        KernelProtoError,
        KernelRestarted,
        KernelUnreachable,
        KernelUnresponsive,
        LaunchError,
        LocalProtocolError,
        MalformedMessage,
        NoSuchKernel,
        NotebookError,
        OutputOverflow,
        PoolError,
        PoolFull,
        ProtocolError,
        QuotaExceeded,
        RegistryError,
        RemoteProtocolError,
        ReplayedMessage,
        ReplyLost,
        UnsupportedRequest,
        WrongEventLoop,
        WrongProcess,
    )
    from kernelproto.interfaces import KernelHandle, KernelManager, KernelProvider
    from kernelproto.launch.finder import KernelFinder
    from kernelproto.pool import KernelPool
    from kernelproto.run import adopt_kernel, connect_kernel, run_kernel, start_kernel
    from kernelproto.startup_clock import waiting_in_queue
    from kernelproto.supervise import (
        Backoff,
        Died,
        Failed,
        Kernel,
        KernelEvents,
        KernelRestarter,
        Reachable,
        Restarted,
        RestartPolicy,
        Unreachable,
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

__version__: str

__all__ = [
    "AuthenticatorUnavailable",
    "Backoff",
    "BlockingClient",
    "BlockingKernel",
    "CellTimeout",
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
    "ExecutionTimeout",
    "Failed",
    "IPykernelMissing",
    "InputRequest",
    "InvalidKernelSpec",
    "InvalidLaunchParameter",
    "InvalidNotebook",
    "InvalidParameter",
    "InvalidSettings",
    "InvalidSignature",
    "Kernel",
    "KernelClient",
    "KernelDied",
    "KernelEvents",
    "KernelExitedEarly",
    "KernelFinder",
    "KernelHandle",
    "KernelInUse",
    "KernelManager",
    "KernelNotReady",
    "KernelPool",
    "KernelProtoError",
    "KernelProvider",
    "KernelRestarted",
    "KernelRestarter",
    "KernelUnreachable",
    "KernelUnresponsive",
    "LaunchError",
    "LocalProtocolError",
    "MalformedMessage",
    "MessageStream",
    "NoSuchKernel",
    "NotebookError",
    "OutputOverflow",
    "PoolError",
    "PoolFull",
    "ProtocolError",
    "QuotaExceeded",
    "Reachability",
    "Reachable",
    "RefusedOutput",
    "RegistryError",
    "RemoteProtocolError",
    "ReplayedMessage",
    "ReplyLost",
    "RestartPolicy",
    "Restarted",
    "Stream",
    "Timeouts",
    "Unreachable",
    "UnsupportedRequest",
    "UpdateDisplayData",
    "WrongEventLoop",
    "WrongProcess",
    "__version__",
    "adopt_kernel",
    "adopt_kernel_blocking",
    "connect_kernel",
    "connect_kernel_blocking",
    "run_kernel",
    "run_kernel_blocking",
    "start_kernel",
    "start_kernel_blocking",
    "waiting_in_queue",
]


# The modules of the public names, the lightest first. A module is imported when one of its names,
# or of the next modules, is first used: to catch an exception, a program need not load ZeroMQ.
_MODULES = (
    "exceptions",
    "timeouts",
    "concurrency.reachability",
    "interfaces",
    "wire",
    "wire.content",
    "startup_clock",
    "client",
    "launch.finder",
    "supervise",
    "run",
    "pool",
    "blocking",
)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # slow to import

        value = globals()[name] = version(__name__)
        return value
    if name in __all__:
        for path in _MODULES:
            module = importlib.import_module(f"{__name__}.{path}")
            if hasattr(module, name):
                value = globals()[name] = getattr(module, name)
                return value
    if any(name == path.partition(".")[0] for path in _MODULES):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
