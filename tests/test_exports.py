"""The public names: complete, documented, and nothing beside them."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest

import kernelproto

PUBLIC = [
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


def test_the_codec_and_the_exceptions_load_neither_zmq_nor_anyio() -> None:
    program = (
        "import sys, kernelproto as k; k.KernelDied, k.wire.Codec, k.Stream\n"
        "print(*{'anyio', 'asyncio', 'zmq'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from kernelproto import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == PUBLIC


def test_packages_are_attributes_and_nothing_else_is() -> None:
    assert kernelproto.wire is importlib.import_module("kernelproto.wire")
    with pytest.raises(AttributeError, match="no attribute 'Wire'"):
        _ = kernelproto.Wire  # type: ignore[attr-defined]
