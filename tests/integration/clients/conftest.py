"""Other people's clients, as install.py has installed them, and a server for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.clients.programs import GUARD_SECONDS, Address, own_folders, serving
from tests.integration.installing import installed_client
from tests.integration.oracle import no_pause

HERE = Path(__file__).parent

Node = Callable[..., str]


@pytest.fixture(scope="session")
def jupyterlab() -> Path:
    """The Python that has JupyterLab."""
    return installed_client("jupyterlab") / "bin" / "python"


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser."""
    return installed_client("chromium") / "chromium"


@pytest.fixture(scope="session")
def node() -> Node:
    """Give a function that runs a script of this folder in Node.js, and returns what it says."""
    folder = installed_client("node")
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no node")

    def run(script: str, *arguments: object, seconds: float = GUARD_SECONDS) -> str:
        done = subprocess.run(
            [program, str(HERE / script), *map(str, arguments)],
            env={**os.environ, "KERNELPROTO_NODE": str(folder)},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    """Run ``python -m kernelproto.server`` for the tests of a module."""
    with own_folders() as environment:
        command = [sys.executable, "-m", "kernelproto.server", "--port", "0"]
        options = ["--kernel", "fork/kernel", "--root-dir", environment["HOME"]]
        options += ["--max-per-user", "10"]
        says = r"(http://\S+)/\?token=(\S+)"
        with serving(*command, *options, env=environment, says=says) as program:
            url, token = program.said.groups()
            with no_pause(int(url.rpartition(":")[2]), program.pid):
                yield Address(url, token)
