"""Install other people's kernels, for the tests in this folder: python install.py [NAME ...]

They go into $KERNELPROTO_KERNELS, by default .venv/kernels, and nowhere else: a virtual
environment, npm packages, unpacked Debian packages, and the kernelspecs that start them. What is
there already stays. A kernel that cannot be installed is skipped; the reason is printed, here and
by its tests, and that is no failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FOLDER = Path(
    os.environ.get("KERNELPROTO_KERNELS")
    or Path(__file__).resolve().parents[3] / ".venv" / "kernels"
)
KERNELSPECS = FOLDER / "share" / "jupyter" / "kernels"

# A registry that does not answer must not hold up the tests.
LONGEST_COMMAND = 150.0


class Skipped(Exception):
    """This kernel cannot be installed here."""


def ipykernel(package: str) -> dict[str, Any]:
    python = pip_install(package)
    return {"argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}


def bash_kernel(package: str) -> dict[str, Any]:
    program("bash")
    python = pip_install(package)
    return {"argv": [python, "-m", "bash_kernel", "-f", "{connection_file}"]}


def xeus_python(package: str) -> dict[str, Any]:
    python = pip_install(package)
    return {"argv": [python, "-m", "xpython_launcher", "-f", "{connection_file}"]}


def deno(package: str) -> dict[str, Any]:
    modules = npm_install(package)
    return {
        "argv": [
            only(modules.glob("@deno/*/deno")),
            *("jupyter", "--kernel", "--conn", "{connection_file}"),
        ],
        "env": {
            "DENO_DIR": str(FOLDER / "deno" / "cache"),
            "DENO_NO_UPDATE_CHECK": "1",
            "NO_COLOR": "1",
        },
    }


def tslab(package: str) -> dict[str, Any]:
    modules = npm_install(package)
    # It looks for the types of console and setTimeout next to its working directory.
    return {
        "argv": [
            *(program("env"), "-C", str(modules.parent)),
            *(program("node"), str(modules / "tslab/bin/tslab")),
            *("kernel", "--config-path", "{connection_file}"),
        ]
    }


def irkernel(package: str) -> dict[str, Any]:
    root = unpack_debian(package)
    home = root / "usr/lib/R"
    # The settings are links to /etc/R, and one of them would have been made by a package's script.
    shutil.copy(home / "etc/Renviron.ucf", root / "etc/R/Renviron")
    for settings in (root / "etc/R").iterdir():
        link = home / "etc" / settings.name
        link.unlink(missing_ok=True)
        link.symlink_to(settings)
    libraries = [home / "lib", *root.glob("usr/lib/*-linux-gnu"), *root.glob("lib/*-linux-gnu")]
    libraries += [*root.glob("usr/lib/*-linux-gnu/blas"), *root.glob("usr/lib/*-linux-gnu/lapack")]
    return {
        "argv": [
            *(str(home / "bin/exec/R"), "--no-echo", "--no-restore"),
            *("-e", "IRkernel::main()", "--args", "{connection_file}"),
        ],
        "env": {
            "R_HOME": str(home),
            "R_SHARE_DIR": str(root / "usr/share/R/share"),
            "R_LIBS_SITE": str(home / "site-library"),
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        },
    }


Recipe = Callable[[str], dict[str, Any]]

# The versions are pinned, because the tests say what these kernels do. Each line is installed
# from left to right, the lines side by side.
KERNELS: Sequence[Mapping[str, tuple[Recipe, str]]] = [
    {
        "ipykernel": (ipykernel, "ipykernel==7.4.0"),
        "bash": (bash_kernel, "bash_kernel==0.10.0"),
        "xpython": (xeus_python, "xeus-python==0.19.0"),
    },
    {"deno": (deno, "deno@2.9.6")},
    {"tslab": (tslab, "tslab@1.0.22")},
    {"ir": (irkernel, "r-cran-irkernel")},
]


def main(names: Sequence[str]) -> None:
    known = [name for line in KERNELS for name in line]
    if unknown := set(names) - set(known):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")

    def install_line(line: Mapping[str, tuple[Recipe, str]]) -> None:
        for name, (recipe, package) in line.items():
            if not names or name in names:
                install(name, recipe, package)

    with ThreadPoolExecutor() as threads:
        list(threads.map(install_line, KERNELS))


def install(name: str, recipe: Recipe, package: str) -> None:
    began = time.monotonic()
    file = KERNELSPECS / name / "kernel.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    skipped = file.with_name("skipped.txt")  # the tests print it
    if is_installed(file, package):
        say(f"{name}: {package} is there")
        return
    try:
        kernelspec = recipe(package)
    except (Skipped, OSError, subprocess.SubprocessError) as error:
        file.unlink(missing_ok=True)  # another version would fail the tests
        skipped.write_text(f"{package} cannot be installed: {reason(error)}")
        say(f"{name}: skipped, {skipped.read_text()}")
        return
    kernelspec |= {"display_name": name, "language": name, "metadata": {"package": package}}
    file.write_text(json.dumps(kernelspec, indent=1) + "\n")  # last: it says that all is there
    skipped.unlink(missing_ok=True)
    say(f"{name}: {package} was installed in {time.monotonic() - began:.1f} s")


def is_installed(file: Path, package: str) -> bool:
    try:
        kernelspec = json.loads(file.read_text())
    except OSError:
        return False
    return kernelspec["metadata"]["package"] == package and Path(kernelspec["argv"][0]).exists()


def pip_install(package: str) -> str:
    python = FOLDER / "python" / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", FOLDER / "python")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package)
    return str(python)


def npm_install(package: str) -> Path:
    prefix = FOLDER / package.partition("@")[0]
    prefix.mkdir(parents=True, exist_ok=True)
    options = ["--prefix", prefix, "--no-audit", "--no-fund", "--ignore-scripts"]
    run(program("npm"), "install", *options, package)
    return prefix / "node_modules"


def unpack_debian(package: str) -> Path:
    """Unpack a Debian package, and what this system lacks of its dependencies.

    apt keeps its lists and downloads where it is told to, so it needs no rights, and neither the
    system nor what it knows of its packages is changed.
    """
    folder = FOLDER / "debian"
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
    plan = run(*apt, "install", "--simulate", "--no-install-recommends", package, "r-base-core")
    wanted = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    if "r-base-core" not in wanted:
        raise Skipped("R is installed in the system, use its own kernel")
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


def only(paths: Iterable[Path]) -> str:
    found = list(paths)
    if len(found) != 1:
        raise Skipped(f"one program was expected, not {found}")
    return str(found[0])


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


if __name__ == "__main__":
    main(sys.argv[1:])
