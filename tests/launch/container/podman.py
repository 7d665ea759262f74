"""A podman of the tests' own: its containers and images are in a temporary folder.

Nothing is downloaded. The image is empty; the containers see the folders of this machine that its
Python needs, read-only.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kernelproto.launch.container.preparation import ulimits
from kernelproto.launch.container.provider import ContainerProvider
from kernelproto.launch.container.settings import ContainerKernel, Mount

IMAGE = "localhost/kernelproto-test"
CALL_SECONDS = 120

_TOP = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


class NoPodman(Exception):
    """The engine does not run here; the text says why."""


class Podman:
    """The engine, and the kernel types for it.

    Args:
        rootless: whether an ordinary user runs the tests.

    Raises:
        NoPodman: it is not installed, or refuses to run a container.
    """

    program = "podman"
    own = ("tmp", "run", "proc", "sys", "dev", "etc")  # the folders of the image

    def __init__(self, *, rootless: bool = False) -> None:
        if os.getuid() != 0 and not rootless:
            raise NoPodman(f"the tests with {self.program} need root")
        self._open()
        try:
            self._run("import", "-", IMAGE, input=_empty_image(self.own))
            self.run(
                "run",
                "--rm",
                "--init",
                "--network=none",
                *(f"--ulimit={name}={number}:{number}" for name, number in ulimits().items()),
                *self._volumes(),
                IMAGE,
                "/bin/true",
            )
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", b"") or str(error).encode()
            self.close()
            raise NoPodman(
                f"{self.program} cannot run a container here: {reason.decode()[-500:]}"
            ) from None

    def _open(self) -> None:
        """Make the folder, and set the options of each call."""
        podman, runtime = shutil.which("podman"), shutil.which("runc") or shutil.which("crun")
        if podman is None or runtime is None:
            raise NoPodman("podman with runc or crun is not installed: run `make cluster`")
        # The paths of its sockets have to be short.
        self._folder = Path(tempfile.mkdtemp(prefix="kp-podman-"))
        self.options: tuple[str, ...] = (
            f"--root={self._folder}/root",
            f"--runroot={self._folder}/run",
            f"--tmpdir={self._folder}/tmp",
            f"--runtime={runtime}",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
        )

    def kernel(self, *command: str, **settings: object) -> ContainerKernel:
        """Return a kernel type; by default it is the ipykernel of this interpreter."""
        python = (sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}")
        mounts = tuple(Mount(source=folder) for folder in _folders())
        options = {"mounts": mounts, "image": IMAGE, "command": command or python, **settings}
        return ContainerKernel(**options)

    def provider(self, **kernels: ContainerKernel) -> ContainerProvider:
        return ContainerProvider(
            kernels or {"python": self.kernel()}, engine=self.program, engine_options=self.options
        )

    def containers(self) -> set[str]:
        """Return the names of all containers."""
        return set(self.run("ps", "--all", "--format={{.Names}}").split())

    def run(self, *arguments: str) -> str:
        return self._run(*arguments).decode()

    def close(self) -> None:
        """Remove all containers and the folder."""
        with suppress(OSError, subprocess.SubprocessError):
            self._run("rm", "--all", "--force", "--time=0")
        if os.getuid() != 0:
            with suppress(OSError, subprocess.SubprocessError):
                self._run("rmi", "--all", "--force")  # files of the user's other numbers
            with suppress(OSError, subprocess.SubprocessError):
                self._run("system", "migrate")  # ends the process that keeps the user namespace
        self._remove_folder()

    def _remove_folder(self) -> None:
        for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            target = mount.split()[1]
            if target.startswith(f"{self._folder}/"):
                subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, *arguments: str, input: bytes | None = None) -> bytes:
        return subprocess.run(
            [self.program, *self.options, *arguments],
            check=True,
            timeout=CALL_SECONDS,
            input=input,
            capture_output=True,
            start_new_session=True,
        ).stdout

    def _volumes(self) -> list[str]:
        return [f"--volume={folder}:{folder}:ro" for folder in _folders()]


def _folders() -> list[str]:
    """Return the folders that this interpreter and its packages are in."""
    here = Path(__file__).resolve().parents[3]
    found = {
        "/usr",
        *(["/etc/fonts"] if os.path.isdir("/etc/fonts") else []),
        os.path.realpath(sys.base_prefix),
        os.path.realpath(sys.prefix),
        sysconfig.get_path("purelib"),
        str(here),
        *(
            f"/{name}"
            for name in _TOP
            if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")
        ),
    }
    return sorted(one for one in found if not any(one.startswith(f"{two}/") for two in found))


def _empty_image(own: Sequence[str]) -> bytes:
    """Return the archive of an image with some folders and the links of this machine's root."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in _TOP:
            if os.path.islink(f"/{name}") and name not in own:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, os.readlink(f"/{name}")
                tar.addfile(link)
        for name in own:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
    return archive.getvalue()
