"""Install other people's clients, for the tests in this folder and those of web pages.

    python -m tests.integration.clients.install [NAME ...]

They go into $KERNELPROTO_CLIENTS, by default .venv/clients, and nowhere else:

    node          the npm packages of package.json
    jupyterlab    a virtual environment with JupyterLab and its server
    chromium      the browser: a link to the one that this system has, or Debian's, unpacked

What is there already stays. What cannot be installed is skipped; the reason is printed, here and by
the tests, and that is no failure.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.installing import (
    Skipped,
    folder_of,
    npm_install,
    pip_install,
    program,
    reason,
    run,
    say,
    unpack_debian,
)

FOLDER = folder_of("KERNELPROTO_CLIENTS", "clients")
PACKAGES = Path(__file__).with_name("package.json")
JUPYTERLAB = "jupyterlab==4.6.6"
CHROMIUM = "chromium"


LAUNCHER = """\
#!/bin/sh
# The libraries that Debian has for it, where this system lacks them.
LD_LIBRARY_PATH="{libraries}" exec "{program}" "$@"
"""


def node(folder: Path) -> None:
    program("node")
    shutil.copy(PACKAGES, folder)
    npm_install(folder)


def jupyterlab(folder: Path) -> None:
    pip_install(folder, JUPYTERLAB)


def chromium(folder: Path) -> None:
    launcher = folder / "chromium"
    try:
        launcher.symlink_to(program(CHROMIUM))
    except Skipped:
        root = unpack_debian(folder, CHROMIUM)
        libraries = [*root.glob("usr/lib/*-linux-gnu"), *root.glob("lib/*-linux-gnu")]
        libraries += root.glob("usr/lib/*-linux-gnu/pulseaudio")
        launcher.write_text(
            LAUNCHER.format(
                libraries=":".join(map(str, libraries)),
                program=root / "usr/lib/chromium/chromium",
            )
        )
        launcher.chmod(0o755)
    run(launcher, "--version")  # it lacks nothing


Recipe = Callable[[Path], None]

# What each is made from: when that changes, it is installed again.
CLIENTS: Mapping[str, tuple[Recipe, str]] = {
    "node": (node, PACKAGES.read_text()),
    "jupyterlab": (jupyterlab, JUPYTERLAB),
    "chromium": (chromium, CHROMIUM),
}


def main(names: Sequence[str]) -> None:
    if unknown := set(names) - CLIENTS.keys():
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CLIENTS)}")
    with ThreadPoolExecutor() as threads:
        list(threads.map(install, names or CLIENTS))


def install(name: str) -> None:
    began = time.monotonic()
    recipe, source = CLIENTS[name]
    folder = FOLDER / name
    installed = folder / "installed.txt"
    skipped = folder / "skipped.txt"  # the tests print it
    version = hashlib.sha256(source.encode()).hexdigest()
    if installed.exists() and installed.read_text() == version:
        say(f"{name} is there")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        recipe(folder)
    except (Skipped, OSError, subprocess.SubprocessError) as error:
        skipped.write_text(f"{name} cannot be installed: {reason(error)}")
        say(f"{name}: skipped, {skipped.read_text()}")
        return
    installed.write_text(version)  # last: it says that all is there
    say(f"{name} was installed in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
