"""Install other people's kernels, for the tests in this folder.

    python -m tests.integration.kernels.install [NAME ...]

They go into $KERNELPROTO_KERNELS, by default .venv/kernels, and nowhere else: a virtual
environment, npm packages, unpacked Debian packages, and the kernelspecs that start them. What is
there already stays. A kernel that cannot be installed is skipped; the reason is printed, here and
by its tests, and that is no failure.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.integration.installing import (
    KERNELS_FOLDER,
    KERNELSPECS,
    Skipped,
    installing,
    npm_install,
    pip_install,
    program,
    refuse_unknown,
    say,
    unpack_debian,
)

PYTHON = KERNELS_FOLDER / "python"


def ipykernel(package: str) -> dict[str, Any]:
    python = pip_install(PYTHON, package)
    return {"argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}


def bash_kernel(package: str) -> dict[str, Any]:
    program("bash")
    python = pip_install(PYTHON, package)
    return {"argv": [python, "-m", "bash_kernel", "-f", "{connection_file}"]}


def xeus_python(package: str) -> dict[str, Any]:
    python = pip_install(PYTHON, package)
    return {"argv": [python, "-m", "xpython_launcher", "-f", "{connection_file}"]}


def deno(package: str) -> dict[str, Any]:
    modules = npm_install(KERNELS_FOLDER / package.partition("@")[0], package)
    return {
        "argv": [
            only(modules.glob("@deno/*/deno")),
            *("jupyter", "--kernel", "--conn", "{connection_file}"),
        ],
        "env": {
            "DENO_DIR": str(KERNELS_FOLDER / "deno" / "cache"),
            "DENO_NO_UPDATE_CHECK": "1",
            "NO_COLOR": "1",
        },
    }


def tslab(package: str) -> dict[str, Any]:
    modules = npm_install(KERNELS_FOLDER / package.partition("@")[0], package)
    # It looks for the types of console and setTimeout next to its working directory.
    return {
        "argv": [
            *(program("env"), "-C", str(modules.parent)),
            *(program("node"), str(modules / "tslab/bin/tslab")),
            *("kernel", "--config-path", "{connection_file}"),
        ]
    }


def irkernel(package: str) -> dict[str, Any]:
    root = unpack_debian(KERNELS_FOLDER / "debian", package, "r-base-core")
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
    refuse_unknown(names, [name for line in KERNELS for name in line])

    def install_line(line: Mapping[str, tuple[Recipe, str]]) -> None:
        for name, (recipe, package) in line.items():
            if not names or name in names:
                install(name, recipe, package)

    with ThreadPoolExecutor() as threads:
        list(threads.map(install_line, KERNELS))


def install(name: str, recipe: Recipe, package: str) -> None:
    file = KERNELSPECS / name / "kernel.json"
    if is_installed(file, package):
        say(f"{package} is there")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # another version would fail the tests
    with installing(package, file.parent):
        kernelspec = recipe(package)
        kernelspec |= {"display_name": name, "language": name, "metadata": {"package": package}}
        file.write_text(json.dumps(kernelspec, indent=1) + "\n")  # last: all is there


def is_installed(file: Path, package: str) -> bool:
    try:
        kernelspec = json.loads(file.read_text())
    except OSError:
        return False
    return kernelspec["metadata"]["package"] == package and Path(kernelspec["argv"][0]).exists()


def only(paths: Iterable[Path]) -> str:
    found = list(paths)
    if len(found) != 1:
        raise Skipped(f"one program was expected, not {found}")
    return str(found[0])


if __name__ == "__main__":
    main(sys.argv[1:])
