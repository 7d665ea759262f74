from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform != "win32":
    from kernelproto.launch.process.forkserver import ForkServer


def import_without_logging(name: str) -> None:
    """Import a package that configures the root logger, and undo that."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    importlib.import_module(name)
    root.setLevel(level)
    root.handlers[:] = handlers


import_without_logging("fps")


@pytest.fixture
def no_server() -> Iterator[None]:
    """End the fork server with the test; use it inside of no_leaks."""
    yield
    if sys.platform != "win32":
        ForkServer.close_all()


@pytest.fixture
def kernelspec(runtime_dir: Path) -> Callable[..., Path]:
    """Give a function that installs a kernelspec, and returns its kernel.json."""

    def install(name: str, argv: list[str], **entries: object) -> Path:
        path = runtime_dir.parent / "data" / "kernels" / name / "kernel.json"
        path.parent.mkdir(parents=True)
        spec = {"argv": argv, "display_name": name, "language": "python", **entries}
        path.write_text(json.dumps(spec))
        return path

    return install
