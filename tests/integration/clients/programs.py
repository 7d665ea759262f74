"""Servers that are programs of their own, for as long as a block runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import NamedTuple

GUARD_SECONDS = 60


class Address(NamedTuple):
    """Where a server is, and what lets one in."""

    url: str
    token: str


class Program(NamedTuple):
    """A server that runs: what it has said, and its process."""

    said: re.Match[str]
    pid: int


@contextmanager
def own_folders() -> Generator[dict[str, str]]:
    """Give an environment in which Jupyter and IPython have folders of their own."""
    home = Path(tempfile.mkdtemp(prefix="kp-"))  # ipc sockets need a short path
    (home / "runtime").mkdir(mode=0o700)
    names = {"RUNTIME": "runtime", "DATA": "data", "CONFIG": "config"}
    folders = {f"JUPYTER_{name}_DIR": str(home / folder) for name, folder in names.items()}
    try:
        yield {**os.environ, **folders, "IPYTHONDIR": str(home / "ipython"), "HOME": str(home)}
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def serving(*command: str, env: dict[str, str], says: str) -> Generator[Program]:
    """Run a server, and wait until its standard error says that it is there; give it.

    Args:
        command: the program and its arguments.
        env: its environment.
        says: a regular expression.
    """
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        said: list[str] = []
        reader = Thread(target=said.extend, args=(process.stderr,))
        try:
            found = None
            while found is None:
                line = process.stderr.readline()
                assert line, f"it has ended: {''.join(said)}"
                said.append(line)
                found = re.search(says, line)
            reader.start()  # nobody may have to wait for a full pipe
            yield Program(found, process.pid)
        finally:
            process.terminate()
            process.wait(GUARD_SECONDS)
            if reader.ident is not None:
                reader.join(GUARD_SECONDS)
