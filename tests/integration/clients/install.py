"""Install other people's clients, for the tests in this folder and those of web pages.

    python -m tests.integration.clients.install [NAME ...]

They go into $KERNELPROTO_CLIENTS, by default .venv/clients, and nowhere else:

    node          the npm packages of package.json
    jupyterlab    a virtual environment with JupyterLab and its server
    chromium      the browser: a link to the one that this system has, or Debian's, unpacked
    nginx         the reverse proxy, likewise
    issuer        an OpenID Connect provider: the npm package of issuer/package.json
    nbclient, jupyter_kernel_test, ...   suites of suites/suites.toml; without NAME the quick ones

What is there already stays. What cannot be installed is skipped; the reason is printed, here and by
the tests, and that is no failure.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.installing import (
    CLIENTS_FOLDER,
    SIGN,
    Skipped,
    installing,
    npm_install,
    pip_install,
    program,
    refuse_unknown,
    run,
    say,
    unpack_debian,
)
from tests.integration.suites.suites import SUITES

PACKAGES = Path(__file__).with_name("package.json")
ISSUER = Path(__file__).with_name("issuer") / "package.json"
JUPYTERLAB = "jupyterlab==4.6.6"
CHROMIUM = "chromium"
NGINX = "nginx"


LAUNCHER = """\
#!/bin/sh
# The libraries that Debian has for it, where this system lacks them.
LD_LIBRARY_PATH="{libraries}" exec "{program}" "$@"
"""


def node(folder: Path) -> None:
    program("node")
    shutil.copy(PACKAGES, folder)
    npm_install(folder)


def issuer(folder: Path) -> None:
    program("node")
    shutil.copy(ISSUER, folder)
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


def nginx(folder: Path) -> None:
    launcher = folder / "nginx"
    try:
        launcher.symlink_to(program(NGINX))
    except Skipped:
        root = unpack_debian(folder, NGINX)
        libraries = [*root.glob("usr/lib/*-linux-gnu"), *root.glob("lib/*-linux-gnu")]
        launcher.write_text(
            LAUNCHER.format(
                libraries=":".join(map(str, libraries)), program=root / "usr/sbin/nginx"
            )
        )
        launcher.chmod(0o755)
    run(launcher, "-v")  # it lacks nothing


Recipe = Callable[[Path], None]

# What each is made from: when that changes, it is installed again.
CLIENTS: Mapping[str, tuple[Recipe, str]] = {
    "node": (node, PACKAGES.read_text()),
    "jupyterlab": (jupyterlab, JUPYTERLAB),
    "chromium": (chromium, CHROMIUM),
    "nginx": (nginx, NGINX),
    "issuer": (issuer, ISSUER.read_text()),
    **{suite.name: (suite.install, suite.recipe) for suite in SUITES},
}
BY_DEFAULT = CLIENTS.keys() - {suite.name for suite in SUITES if not suite.quick}


def main(names: Sequence[str]) -> None:
    refuse_unknown(names, CLIENTS)
    with ThreadPoolExecutor() as threads:
        list(threads.map(install, names or BY_DEFAULT))


def install(name: str) -> None:
    recipe, source = CLIENTS[name]
    folder = CLIENTS_FOLDER / name
    sign = folder / SIGN
    version = hashlib.sha256(source.encode()).hexdigest()
    if sign.exists() and sign.read_text() == version:
        say(f"{name} is there")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with installing(name, folder):
        recipe(folder)
        sign.write_text(version)  # last: all is there


if __name__ == "__main__":
    main(sys.argv[1:])
