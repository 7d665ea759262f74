"""JupyterLab in a browser goes on in the same notebook while the server of its kernel is replaced.

With KERNELPROTO_SCREENSHOTS=FOLDER the pages are there to be looked at.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.clients.conftest import Node
from tests.integration.clients.notebooks import notebook
from tests.integration.clients.programs import own_folders, serving
from tests.integration.server_kills import TOKEN, Server

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 100

# Prints lines before the end of the server, while there is none, and after the next one's start.
PRINTING = """
import pathlib, time
def until(name):
    while not pathlib.Path({folder!r}, name).exists(): time.sleep(0.01)
print("begin")
until("{signal}-ended")
for n in range(200): print(n, flush=n % 10 == 0)
pathlib.Path({folder!r}, "{signal}-printed").touch()
until("{signal}-back")
for n in range(200, 300): print(n)
print("the end")
last = "{signal}"
"""


def sources(folder: Path) -> list[str]:
    """Return the cells of the notebook."""
    signals = ("SIGKILL", "SIGTERM")
    printing = [PRINTING.format(folder=str(folder), signal=name).strip() for name in signals]
    return ["x = 42", "print('x is', x, 'after', last)", *printing]


def test_open_page_goes_on(
    node: Node, jupyterlab: Path, chromium: Path, tmp_path: Path, runtime_dir: Path
) -> None:
    (tmp_path / "kept.ipynb").write_text(notebook(sources(tmp_path), "pyimport/kernel"))
    server = Server(runtime_dir.parent, KERNELPROTO_GRACE_SECONDS="0")
    server.start()
    try:
        with own_folders() as environment, ThreadPoolExecutor(1) as threads:
            options = [
                f"--gateway-url={server.url}",
                f"--GatewayClient.auth_token={TOKEN}",
                f"--ServerApp.root_dir={tmp_path}",
                "--IdentityProvider.token=t",
                "--no-browser",
                "--port=0",
                "--allow-root",
            ]
            command = [str(jupyterlab), "-m", "jupyterlab", *options]
            with serving(*command, env=environment, says=r"(http://127\S+)/lab\?token=") as lab:
                url = f"{lab.said[1]}/doc/tree/kept.ipynb?token=t"
                screenshots = os.environ.get("KERNELPROTO_SCREENSHOTS", "")
                script = ("jupyterlab_kept.mjs", chromium, url, tmp_path, screenshots)
                person = threads.submit(node, *script, seconds=GUARD_SECONDS)
                for signum in (signal.SIGKILL, signal.SIGTERM):
                    replace(server, signum, tmp_path, person)
                person.result(GUARD_SECONDS)
    finally:
        server.end(signal.SIGINT)
        server.client.close()


def replace(server: Server, signum: signal.Signals, folder: Path, person: Future[str]) -> None:
    """End the server while the cell runs, let the cell print, and start the next server."""
    until(folder / f"{signum.name}-seen", person)
    server.end(signum)
    (folder / f"{signum.name}-ended").touch()
    until(folder / f"{signum.name}-printed", person)
    server.start()
    (folder / f"{signum.name}-back").touch()


def until(path: Path, person: Future[str]) -> None:
    deadline = time.monotonic() + GUARD_SECONDS
    while not path.exists():
        assert not person.done(), person.result()
        assert time.monotonic() < deadline, f"there is no {path.name}"
        time.sleep(0.01)
