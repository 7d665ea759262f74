"""The layer rules, read from the source: nothing is imported here."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kernelproto"

# A room is a module or folder directly in kernelproto/. It sees itself and lower layers.
LAYERS = {
    "exceptions": 0,
    "extras": 0,
    "timeouts": 0,
    "concurrency": 1,
    "startup_clock": 1,
    "wire": 1,
    "file_owner": 1,
    "folder_removal": 1,
    "confined_folder": 2,
    "interfaces": 2,
    "log_counts": 2,
    "log_fields": 2,
    "shortage": 2,
    "terminal": 2,
    "registry": 3,
    "urls": 2,
    "kept_messages": 3,
    "transport": 3,
    "client": 4,
    "launch": 4,
    "host": 5,
    "remote": 5,
    "supervise": 5,
    "testing": 5,
    "fanout": 6,
    "run": 6,
    "kubernetes": 6,
    "ssh": 6,
    "blocking": 7,
    "notebook": 7,
    "pool": 7,
    "mcp": 8,
    "pytest_plugin": 8,
    "jupyter": 9,
    "server": 9,
    "cli": 10,
    "__main__": 11,
}

# Modules that only these may import: foreign ones, and the program that runs the server on uvicorn.
CONFINED = {
    "kernelproto.server.program": (
        "kernelproto/server/program/",
        "kernelproto/server/__main__.py",
        "kernelproto/cli/app.py",
    ),
    "kernelproto.mcp": ("kernelproto/mcp/", "kernelproto/cli/mcp.py", "kernelproto/server/mcp/"),
    "mcp": ("kernelproto/mcp/", "kernelproto/server/mcp/"),
    "zmq": ("kernelproto/transport/",),
    "asyncio": (
        "kernelproto/transport/asyncio_socket.py",
        "kernelproto/jupyter/provisioned.py",
    ),
    "subprocess": ("kernelproto/launch/", "kernelproto/jupyter/provisioner.py"),
    "signal": (
        "kernelproto/launch/",
        "kernelproto/host/manager.py",
        "kernelproto/jupyter/provisioned.py",
        "kernelproto/jupyter/provisioner.py",
        "kernelproto/server/program/serve.py",
        "kernelproto/ssh/connection.py",
        "kernelproto/cli/main.py",
        "kernelproto/__main__.py",
        "kernelproto/cli/signals.py",
    ),
    "h11": (
        "kernelproto/server/program/header_timeout.py",
        "kernelproto/server/auth/http_get.py",
        "kernelproto/server/nodes/http.py",
        "kernelproto/server/program/protocols.py",
    ),
    "cryptography": ("kernelproto/kubernetes/keys.py",),
    "httpx": ("kernelproto/kubernetes/api.py", "kernelproto/remote/"),
    "jwt": ("kernelproto/server/auth/oidc.py",),
    "opentelemetry": ("kernelproto/server/telemetry/tracing.py",),
    "prometheus_client": ("kernelproto/server/telemetry/metrics.py",),
    "psutil": ("kernelproto/server/telemetry/usage.py",),
    "psycopg": ("kernelproto/registry/postgresql.py",),
    "sqlite3": ("kernelproto/registry/sqlite.py",),
    "fsspec": ("kernelproto/urls.py",),
    "nbformat": ("kernelproto/notebook/",),
    "yaml": ("kernelproto/kubernetes/config.py", "kernelproto/notebook/parameter_files.py"),
    "starlette": ("kernelproto/server/",),
    "uvicorn": ("kernelproto/server/program/",),
    "typer": ("kernelproto/cli/",),
    "rich": ("kernelproto/cli/",),
    "prompt_toolkit": ("kernelproto/cli/",),
    "trio": (),
    "uvloop": (),
    "tornado": ("kernelproto/jupyter/server/",),
    "jupyter_server": ("kernelproto/jupyter/server/",),
    "traitlets": ("kernelproto/jupyter/",),
    "jupyter_client": ("kernelproto/jupyter/",),
    "nbclient": ("kernelproto/jupyter/",),
    "nbconvert": ("kernelproto/jupyter/",),
    "papermill": ("kernelproto/jupyter/papermill_engine.py",),
    "fps": ("kernelproto/jupyter/jupyverse.py",),
    "jupyverse_kernel": ("kernelproto/jupyter/jupyverse.py",),
    "ipykernel": ("kernelproto/launch/programs/ipykernel.py",),
}

PURE = (
    "kernelproto/wire/",
    "kernelproto/host/protocol.py",
    "kernelproto/kubernetes/bodies.py",
    "kernelproto/kubernetes/failures.py",
    "kernelproto/kubernetes/merge.py",
    "kernelproto/kubernetes/pod.py",
    "kernelproto/launch/process/seccomp.py",
    "kernelproto/launch/programs/host/frames.py",
    "kernelproto/launch/programs/host/zmtp.py",
    "kernelproto/launch/spec/plan.py",
    "kernelproto/supervise/restart_policy.py",
    "kernelproto/supervise/states.py",
    "kernelproto/pool/queue.py",
    "kernelproto/pool/slots.py",
    "kernelproto/pool/plan.py",
    "kernelproto/registry/statements.py",
    "kernelproto/server/mcp/messages.py",
    "kernelproto/server/nodes/seal.py",
    "kernelproto/server/rate_limit.py",
    "kernelproto/server/session_table.py",
    "kernelproto/server/user_messages.py",
    "kernelproto/fanout/cursor.py",
    "kernelproto/fanout/handover.py",
    "kernelproto/fanout/replay_log.py",
    "kernelproto/fanout/traffic.py",
    "kernelproto/jupyter/server/limits.py",
    "kernelproto/server/dashboard/page.py",
    "kernelproto/client/page.py",
    "kernelproto/mcp/limits.py",
    "kernelproto/mcp/names.py",
    "kernelproto/mcp/rendering.py",
    "kernelproto/notebook/cell_lines.py",
    "kernelproto/notebook/defaults.py",
    "kernelproto/notebook/events.py",
    "kernelproto/notebook/languages.py",
    "kernelproto/notebook/literals.py",
    "kernelproto/notebook/outputs.py",
    "kernelproto/notebook/parameters.py",
    "kernelproto/notebook/recorder.py",
    "kernelproto/notebook/repair.py",
    "kernelproto/notebook/result.py",
    "kernelproto/notebook/widgets.py",
    "kernelproto/remote/events.py",
    "kernelproto/remote/failures.py",
    "kernelproto/remote/models.py",
    "kernelproto/ssh/failures.py",
    "kernelproto/ssh/names.py",
)
IMPURE_MODULES = {"anyio", "os", "random", "secrets", "socket", "threading", "time", "uuid"}
IMPURE_CALLS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}

MAX_LINES = 400

Module = tuple[str, ast.Module]


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    """Give every module of the package: its path from the root, and its syntax tree."""
    found = [
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]
    assert found
    return found


def room(path: str) -> str:
    return path.split("/")[1].removesuffix(".py")


def imports(path: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the full names that a module imports, wherever in it, with their lines."""
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package[: len(package) - level + 1] if level else []
                origin = ".".join([*above, *([module] if module else [])])
                yield from ((f"{origin}.{alias.name}", node.lineno) for alias in names)


def may_see(importer: str, imported: str) -> bool:
    if importer == "__init__":  # the front door: everything but the extras
        return LAYERS[imported] < LAYERS["mcp"]
    return imported == importer or LAYERS[imported] < LAYERS[importer]


def layer_offences(path: str, tree: ast.Module) -> list[str]:
    return [
        f"{path}:{line} imports {name}"
        for name, line in imports(path, tree)
        if name.split(".")[0] == "kernelproto"
        and (name.split(".")[1] not in LAYERS or not may_see(room(path), name.split(".")[1]))
    ]


def confinement_offences(path: str, tree: ast.Module) -> list[str]:
    return [
        f"{path}:{line} imports {name}"
        for name, line in imports(path, tree)
        for confined, importers in CONFINED.items()
        if f"{name}.".startswith(f"{confined}.") and not path.startswith(importers)
    ]


def purity_offences(path: str, tree: ast.Module) -> list[str]:
    if not path.startswith(PURE):
        return []
    impure_imports = [
        f"{path}:{line} imports {name}"
        for name, line in imports(path, tree)
        if name.split(".")[0] in IMPURE_MODULES
    ]
    asynchronous = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    impure_code = [
        f"{path}:{node.lineno} {ast.unparse(node).splitlines()[0]}"
        for node in ast.walk(tree)
        if isinstance(node, asynchronous)
        or (isinstance(node, ast.Attribute) and ast.unparse(node).endswith(tuple(IMPURE_CALLS)))
    ]
    return impure_imports + impure_code


def test_every_module_has_its_layer(modules: list[Module]) -> None:
    assert {room(path) for path, _ in modules} - {"__init__"} <= LAYERS.keys()


@pytest.mark.parametrize("offences", [layer_offences, confinement_offences, purity_offences])
def test_rule(offences, modules: list[Module]) -> None:
    assert [offence for module in modules for offence in offences(*module)] == []


def test_no_module_is_too_long() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize(
    ("offences", "path", "source"),
    [
        (layer_offences, "wire/codec.py", "from kernelproto.transport import sockets"),
        (layer_offences, "wire/codec.py", "from kernelproto import client"),
        (layer_offences, "wire/codec.py", "from ..client import execution"),
        (layer_offences, "wire/codec.py", "def f():\n    import kernelproto.run"),
        (layer_offences, "client/client.py", "from kernelproto.launch.local import launch"),
        (layer_offences, "launch/local.py", "import kernelproto.client.client"),
        (layer_offences, "pool/pool.py", "from kernelproto import KernelClient"),
        (layer_offences, "__init__.py", "from kernelproto.server import app"),
        (layer_offences, "__init__.py", "from kernelproto.mcp import limits"),
        (layer_offences, "mcp/server.py", "from kernelproto.server import app"),
        (layer_offences, "server/app.py", "from kernelproto.jupyter import provisioner"),
        (confinement_offences, "client/client.py", "from traitlets import Bool"),
        (confinement_offences, "cli/main.py", "import jupyter_client.kernelspec"),
        (confinement_offences, "client/client.py", "import zmq.asyncio"),
        (confinement_offences, "transport/fd_socket.py", "import asyncio"),
        (confinement_offences, "transport/asyncio_socket.py", "from trio.lowlevel import x"),
        (confinement_offences, "supervise/kernel.py", "from signal import SIGINT"),
        (confinement_offences, "pool/pool.py", "from starlette.routing import Route"),
        (confinement_offences, "server/app.py", "import uvicorn.config"),
        (confinement_offences, "server/app.py", "from kernelproto.server import program"),
        (confinement_offences, "server/app.py", "from .program.serve import main"),
        (confinement_offences, "cli/main.py", "import kernelproto.server.program.serve"),
        (confinement_offences, "cli/mcp.py", "from mcp.server import Server"),
        (confinement_offences, "cli/app.py", "from kernelproto.mcp.program import serve_stdio"),
        (purity_offences, "wire/codec.py", "async def f(): ..."),
        (purity_offences, "wire/codec.py", "from time import monotonic"),
        (purity_offences, "wire/codec.py", "now = datetime.datetime.now(UTC)"),
        (purity_offences, "wire/codec.py", "clock: Clock = datetime.now"),
    ],
)
def test_rules_notice(offences, path: str, source: str) -> None:
    assert offences(f"kernelproto/{path}", ast.parse(source))


@pytest.mark.parametrize(
    ("offences", "path", "source"),
    [
        (layer_offences, "wire/codec.py", "from . import message\nfrom ..exceptions import x"),
        (layer_offences, "client/client.py", "from kernelproto.client.execution import x"),
        (layer_offences, "__init__.py", "from kernelproto.run import run_kernel"),
        (confinement_offences, "transport/asyncio_socket.py", "import asyncio, zmq.asyncio"),
        (confinement_offences, "launch/local.py", "import os, signal, subprocess"),
        (confinement_offences, "server/__main__.py", "from .program.serve import main"),
        (confinement_offences, "server/app.py", "import kernelproto.server.programs"),
        (purity_offences, "wire/codec.py", "import datetime, hmac\nx: datetime.datetime"),
        (purity_offences, "client/client.py", "import time\nasync def f(): ..."),
    ],
)
def test_rules_allow(offences, path: str, source: str) -> None:
    assert offences(f"kernelproto/{path}", ast.parse(source)) == []


def test_importing_loads_no_framework() -> None:
    unwanted = {"tornado", "traitlets", "jupyter_client", "ipykernel", "trio", "uvloop"}
    unwanted |= {
        "jsonschema",
        "mcp",
        "psutil",
        "starlette",
        "uvicorn",
    }  # who needs them waits for them
    program = (
        "from kernelproto import *; import sys; print(*{m.split('.')[0] for m in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "kernelproto" in loaded
    assert unwanted.isdisjoint(loaded)


def test_only_supervise_uses_the_lifecycle_of_a_kernel(modules: list[Module]) -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in modules
        if room(path) != "supervise"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "lifecycle"
    ]
    assert found == []
