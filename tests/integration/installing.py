"""Other people's programs, installed into folders for the tests: what the installers share.

Nothing here needs rights, and nothing changes the system or what it knows of its packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

VENV = Path(__file__).resolve().parents[2] / ".venv"
KERNELS_FOLDER = Path(os.environ.get("KERNELPROTO_KERNELS") or VENV / "kernels")
CLIENTS_FOLDER = Path(os.environ.get("KERNELPROTO_CLIENTS") or VENV / "clients")
KERNELSPECS = KERNELS_FOLDER / "share" / "jupyter" / "kernels"

# A registry that does not answer must not hold up the tests.
LONGEST_COMMAND = 150.0

# The files that say what is there, and what is not.
SIGN, SKIPPED = "installed.txt", "skipped.txt"


class Skipped(Exception):
    """This program cannot be installed here."""


def installed_kernelspec(name: str) -> Path:
    """Return the kernel.json of a kernel, or skip the test that needs it."""
    return _installed(KERNELSPECS / name / "kernel.json")


def installed_client(name: str) -> Path:
    """Return the folder of a client, or skip the test that needs it."""
    return _installed(CLIENTS_FOLDER / name / SIGN).parent


def _installed(sign: Path) -> Path:
    if not sign.exists():
        skipped = sign.with_name(SKIPPED)
        hint = f"no {sign.parent.name}: run `make kernels clients`"
        pytest.skip(skipped.read_text() if skipped.exists() else hint)
    return sign


@contextmanager
def installing(name: str, folder: Path) -> Generator[None]:
    """Say what becomes of installing a program; if it cannot be, the tests say why, too."""
    began = time.monotonic()
    skipped = folder / SKIPPED
    try:
        yield
    except (Skipped, OSError, subprocess.SubprocessError) as error:
        skipped.write_text(f"{name} cannot be installed: {reason(error)}")
        say(f"skipped: {skipped.read_text()}")
    else:
        skipped.unlink(missing_ok=True)
        say(f"{name} was installed in {time.monotonic() - began:.1f} s")


def refuse_unknown(names: Sequence[str], known: Collection[str]) -> None:
    """End the program if it was asked for something that it cannot install."""
    if unknown := set(names) - set(known):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")


def pip_install(environment: Path, *packages: str) -> str:
    """Install into a virtual environment, and return its Python."""
    python = environment / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", environment)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return str(python)


def npm_install(prefix: Path, *packages: str) -> Path:
    """Install packages, or those of the package.json in there; return the folder of modules."""
    prefix.mkdir(parents=True, exist_ok=True)
    options = ["--prefix", prefix, "--no-audit", "--no-fund", "--ignore-scripts"]
    run(program("npm"), "install", *options, *packages)
    return prefix / "node_modules"


def unpack_debian(folder: Path, package: str, *needed: str) -> Path:
    """Unpack a Debian package, and what this system lacks of its dependencies; return the root.

    apt keeps its lists and downloads where it is told to. What is *needed* in there, by default the
    package itself, must not be in the system already.
    """
    scratch, root = folder / "scratch", folder / "root"
    for part in ("lists/partial", "cache/archives/partial", "packages"):
        (scratch / part).mkdir(parents=True, exist_ok=True)
    settings = scratch / "apt.conf"
    settings.write_text(
        f'Dir::State::Lists "{scratch}/lists"; Dir::Cache "{scratch}/cache";'
        ' APT::Sandbox::User "root";'
    )
    apt = [program("apt-get"), "--quiet=2", "-c", settings]
    run(*apt, "update")
    plan = run(*apt, "install", "--simulate", "--no-install-recommends", package, *needed)
    wanted = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    for name in needed or [package]:
        if name not in wanted:
            raise Skipped(f"{name} is installed in the system, use that")
    run(*apt, "download", *wanted, cwd=scratch / "packages")
    for archive in (scratch / "packages").iterdir():
        run(program("dpkg-deb"), "--extract", archive, root)
    shutil.rmtree(scratch)
    return root


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise Skipped(f"there is no {name}")
    return path


def run(*command: str | Path, cwd: Path | None = None) -> str:
    return subprocess.run(
        command,
        cwd=cwd,
        check=True,
        timeout=LONGEST_COMMAND,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    ).stdout


def reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return (error.stderr or error.stdout).strip() or str(error)
    return str(error)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
