"""A docker of the tests' own: its daemon, containers and images are in a temporary folder.

The daemon listens on a socket in that folder only, and sets up no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.launch.container.podman import NoPodman, Podman

START_SECONDS = 40

PROGRAMS = ("docker", "dockerd", "containerd", "docker-init", "runc")

NO_NETWORK = (
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--ip-forward=false",
    "--ip-masq=false",
    "--userland-proxy=false",
)


class Docker(Podman):
    """The daemon, and the kernel types for it.

    Raises:
        NoPodman: it is not installed, or does not start.
    """

    program = "docker"
    own = (*Podman.own, "sbin")  # docker puts the first process of each container there

    def _open(self) -> None:
        missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
        if missing:
            raise NoPodman(f"{', '.join(missing)} is not installed: see docs/howto/containers.md")
        self._folder = Path(tempfile.mkdtemp(prefix="kp-docker-"))
        socket = self._folder / "socket"
        self.options = (f"--host=unix://{socket}",)
        daemon = shutil.which("dockerd", path=_path()) or ""
        folders = [f"--{name}={self._folder}/{name}" for name in ("data-root", "exec-root")]
        folders.append(f"--pidfile={self._folder}/pid")
        with open(self._folder / "log", "wb") as log:
            self._daemon = subprocess.Popen(
                [daemon, *self.options, *folders, *NO_NETWORK, "--storage-driver=vfs"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": _path(), "HOME": str(self._folder)},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not socket.exists():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                text = (self._folder / "log").read_text()[-500:]
                self.close()
                raise NoPodman(f"docker does not start here: {text}")
            time.sleep(0.1)

    def close(self) -> None:
        """Remove all containers, end the daemon by its id, and remove the folder."""
        if self._daemon.poll() is None:
            with suppress(OSError, subprocess.SubprocessError):
                if names := self.containers():
                    self._run("rm", "--force", *names)
            self._daemon.terminate()
            try:
                self._daemon.wait(20)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        self._remove_folder()


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
