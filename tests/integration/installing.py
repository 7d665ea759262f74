"""Installing other people's programs into a folder, for the tests: what the installers share.

Nothing here needs rights, and nothing changes the system or what it knows of its packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A registry that does not answer must not hold up the tests.
LONGEST_COMMAND = 150.0


class Skipped(Exception):
    """This program cannot be installed here."""


def folder_of(variable: str, name: str) -> Path:
    """Return the folder that an environment variable names, by default one of .venv."""
    return Path(os.environ.get(variable) or ROOT / ".venv" / name)


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
