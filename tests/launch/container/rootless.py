"""A rootless podman: an ordinary user runs this program and launches kernels.

The user and the user's ranges of numbers exist only in a mount namespace. The Python is that of the
system, because other users may not reach that of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec

from kernelproto import KernelFinder, run_kernel
from kernelproto.exceptions import LaunchError
from kernelproto.testing import check_kernel_provider
from tests.launch.container.podman import NoPodman, Podman

PYTHON = "/usr/bin/python3"
UID = 4_200_000
FIRST, RANGE = 4_300_000, 65_536
SECONDS = 110

ROOT = Path(__file__).resolve().parents[3]

ENTER = """
for name in passwd group subuid subgid; do mount --bind "$1/$name" "/etc/$name" || exit; done
exec setpriv --reuid="$2" --regid="$2" --clear-groups --inh-caps=-all "$3" -m \\
    tests.launch.container.rootless "$4"
"""

LOOK = "import os; print(os.getuid()); open('/tmp/written', 'w').close()"


def run(*, ranges: bool, checks: str = "", seconds: float = SECONDS) -> dict[str, Any]:
    """Run main() as an ordinary user; return what it has printed.

    Args:
        ranges: whether the user has ranges in subuid and subgid.
        checks: the kernel type that is checked against the whole contract, if any.
        seconds: the time limit.

    Raises:
        NoPodman: a program is missing, or the system's Python is another one.
    """
    for name in ("setpriv", "unshare", *(["newuidmap"] if ranges else [])):
        if shutil.which(name) is None:
            raise NoPodman(f"{name} is not installed: run `make cluster`")
    if os.getuid() != 0:
        raise NoPodman("only root can become another user")
    version = "import sys; print(sys.version_info[:2])"
    done = subprocess.run([PYTHON, "-c", version], check=False, capture_output=True, text=True)
    if done.stdout.strip() != str(sys.version_info[:2]):
        raise NoPodman(f"{PYTHON} is not Python {sys.version_info[:2]}")
    with tempfile.TemporaryDirectory(prefix="kp-user-") as name:
        folder = Path(name)
        _write_files(folder, ranges=ranges)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": f"{folder}/home",
            "XDG_RUNTIME_DIR": f"{folder}/run",
            "TMPDIR": f"{folder}/tmp",
            "JUPYTER_RUNTIME_DIR": f"{folder}/run",  # paths of sockets have to be short
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        script = ["sh", "-c", ENTER, "sh", str(folder), str(UID), PYTHON, checks]
        done = subprocess.run(
            ["unshare", "--mount", *script],
            env=env,
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    if done.returncode == 77:
        raise NoPodman(done.stderr)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _write_files(folder: Path, *, ranges: bool) -> None:
    folder.chmod(0o755)
    passwd = Path("/etc/passwd").read_text()
    (folder / "passwd").write_text(f"{passwd}kernelproto:x:{UID}:{UID}::{folder}/home:/bin/sh\n")
    groups = Path("/etc/group").read_text()
    (folder / "group").write_text(f"{groups}kernelproto:x:{UID}:\n")
    for name in ("subuid", "subgid"):
        (folder / name).write_text(f"kernelproto:{FIRST}:{RANGE}\n" if ranges else "")
    for name in ("home", "run", "tmp"):
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, UID, UID)


async def main(podman: Podman, checks: str) -> dict[str, Any]:
    """Launch kernels; return the outputs or errors, and the containers that are left."""
    env = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    unlimited: dict[str, Any] = {"env": env, "memory": None, "processes": None}
    kernels = {
        "limited": podman.kernel(env=env),
        "default": podman.kernel(**unlimited),
        "root": podman.kernel(**unlimited, user="0:0"),
    }
    finder = KernelFinder([podman.provider(**kernels)])
    found: dict[str, Any] = {}
    for name in kernels:
        try:
            async with run_kernel(f"container/{name}", finder=finder) as kernel:
                found[name] = (await kernel.execute(LOOK)).stdout
        except LaunchError as error:
            found[name] = f"{type(error).__name__}: {error}"
    if checks:
        kernel = msgspec.structs.replace(kernels[checks], detached=True)
        await check_kernel_provider(podman.provider(python=kernel), patience=60)
        found["checked"] = True
    return {**found, "left": sorted(podman.containers())}


if __name__ == "__main__":
    try:
        with closing(Podman(rootless=True)) as engine:
            sys.stdout.write(json.dumps(anyio.run(main, engine, sys.argv[1])))
    except NoPodman as error:
        sys.stderr.write(str(error))
        sys.exit(77)
