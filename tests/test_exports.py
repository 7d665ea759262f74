"""The public names: complete, documented, and nothing beside them."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Iterator

import pytest

import kernelproto

PUBLIC = [
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

DOCUMENTED = [name for name in PUBLIC if name != "__version__"]


def test_all_is_what_is_promised() -> None:
    assert kernelproto.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC


def test_nothing_else_is_in_sight() -> None:
    visible = {name for name, value in vars(kernelproto).items() if not inspect.ismodule(value)}
    assert {name for name in visible if not name.startswith("_")} <= set(PUBLIC)


def test_version_is_the_installed_one() -> None:
    assert kernelproto.__version__ == importlib.metadata.version("kernelproto")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_is_documented(name: str) -> None:
    undocumented = [
        label for label, obj in described_by(name) if not has_docstring(obj, label.split(".")[-1])
    ]
    assert undocumented == []


def described_by(name: str) -> Iterator[tuple[str, object]]:
    """Yield what a public name stands for and, of a class, its public methods and properties."""
    public = getattr(kernelproto, name)
    yield name, public
    if inspect.isclass(public):
        for member, value in vars(public).items():
            described = inspect.isroutine(value) or isinstance(value, property)
            if described and not member.startswith("_"):
                yield f"{name}.{member}", getattr(public, member)


def has_docstring(obj: object, name: str) -> bool:
    # A dataclass without a docstring is given its signature for one.
    docstring = inspect.getdoc(obj) or f"{name}("
    return not docstring.startswith(f"{name}(")
