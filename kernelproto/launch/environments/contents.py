"""Contents: the Python and the packages of an environment, as described by the files.

The answer is kept until a relevant file or folder changes, because a server lists its kernel types
again and again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from kernelproto.launch.environments.place import MOST_ENTRIES
from kernelproto.launch.own_files import read_regular_file

_NEWEST_MINOR = 40
_OLDEST_MINOR = 6  # lib/python3.1 is a link that conda-forge makes

_VERSION = re.compile(r"3\.\d+")
_DIST_INFO = re.compile(r"ipykernel-(\d+)\.(\d+)[^-]*\.dist-info")

# site-packages has one entry or two for each package.
_MOST_PACKAGES = 20_000
_MOST_PTH_FILES = 100

_MOST_KEPT = 200

# See finder.py: a folder that changed just now may be in the middle of an installation.
_SETTLED_SECONDS = 2


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of an environment.

    Args:
        python: the path of the interpreter; None if there is none.
        version: the version of Python, ``3.X``, or ``3`` if unknown.
        ipykernel: the folder of the package ipykernel; None if the package cannot be imported.
        ipykernel_version: the first two numbers of the version; (0, 0) if unknown.
        has_pip: whether pip is installed in the environment itself.
        is_from_uv: whether uv has made the environment.
    """

    python: str | None
    version: str = "3"
    ipykernel: str | None = None
    ipykernel_version: tuple[int, int] = (0, 0)
    has_pip: bool = False
    is_from_uv: bool = False


# The modification times of the files and folders that were read, by path; None for a missing one.
_Times = Mapping[str, int | None]

_kept: dict[str, tuple[_Times, Contents]] = {}


def read_contents(prefix: str) -> Contents:
    """Read the files of an environment.

    Args:
        prefix: the absolute path of the environment's folder.
    """
    kept = _kept.get(prefix)
    if kept is not None and kept[0] == _times(kept[0]):
        return kept[1]
    looked_at = dict.fromkeys([prefix, os.path.join(prefix, "pyvenv.cfg"), *_interpreters(prefix)])
    times = _times(looked_at)
    contents = _read(prefix, looked_at)
    times = {**_times(looked_at), **times}
    newest = max((changed for changed in times.values() if changed is not None), default=0)
    if time.time_ns() - newest > _SETTLED_SECONDS * 10**9 and contents.python is not None:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[prefix] = times, contents
    return contents


def _read(prefix: str, looked_at: dict[str, None]) -> Contents:
    """Read an environment; add the paths that the answer depends on to *looked_at*."""
    settings = _pyvenv_cfg(prefix)
    python = next(filter(_is_program, _interpreters(prefix)), None)
    version = _version(prefix, settings)
    own = _site_packages(prefix, version)
    has_pip = any(os.path.isdir(os.path.join(folder, "pip")) for folder in own)
    found = _ipykernel(_import_folders(prefix, version, settings, own), looked_at)
    return Contents(
        python=python,
        version=version or "3",
        ipykernel=found,
        ipykernel_version=_ipykernel_version(found),
        has_pip=has_pip,
        is_from_uv="uv" in settings,
    )


def _interpreters(prefix: str) -> Iterator[str]:
    if os.name == "nt":
        yield os.path.join(prefix, "Scripts", "python.exe")
        yield os.path.join(prefix, "python.exe")  # conda
    else:
        yield os.path.join(prefix, "bin", "python")
        yield os.path.join(prefix, "bin", "python3")


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _pyvenv_cfg(prefix: str) -> dict[str, str]:
    """Return the settings of a virtual environment; none if there is no such file."""
    try:
        text = read_regular_file(os.path.join(prefix, "pyvenv.cfg")).decode("utf-8", "replace")
    except (OSError, ValueError):
        return {}
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip().lower(): value.strip() for key, equals, value in pairs if equals}


def _version(prefix: str, settings: Mapping[str, str]) -> str | None:
    """Return the version of Python, ``3.X``; None if unknown."""
    # venv writes the first one, virtualenv and uv the second one.
    for key in ("version", "version_info"):
        found = _VERSION.match(settings.get(key, ""))
        if found is not None:
            return found[0]
    for minor in range(_NEWEST_MINOR, _OLDEST_MINOR, -1):
        if _site_packages(prefix, f"3.{minor}"):
            return f"3.{minor}"
    return None


def _site_packages(prefix: str, version: str | None) -> list[str]:
    """Return the folders of an environment's installed packages."""
    if os.name == "nt":
        folders = [os.path.join(prefix, "Lib", "site-packages")]
    else:
        # Free-threaded builds of Python have a t after their version.
        names = (f"python{version}", f"python{version}t")
        folders = [os.path.join(prefix, "lib", name, "site-packages") for name in names]
    return [folder for folder in folders if os.path.isdir(folder)]


def _import_folders(
    prefix: str, version: str | None, settings: Mapping[str, str], own: list[str]
) -> Iterator[str]:
    """Yield the folders that Python imports packages from, without starting Python."""
    yield from own
    for folder in own:
        yield from _pth_folders(folder)
    if settings and settings.get("include-system-site-packages", "").lower() != "true":
        return
    # Others have the user's packages, too.
    home = os.path.expanduser("~")
    if os.name != "nt" and not os.environ.get("PYTHONNOUSERSITE"):
        yield os.path.join(home, ".local", "lib", f"python{version}", "site-packages")
    if settings.get("home"):
        base = os.path.dirname(settings["home"])
        yield from _site_packages(base, version)
        yield os.path.join(base, "local", "lib", f"python{version}", "dist-packages")  # Debian
        yield os.path.join(base, "lib", "python3", "dist-packages")


def _pth_folders(site_packages: str) -> Iterator[str]:
    """Yield the folders that the .pth files of site-packages add to the search path."""
    names = [name for name in _names(site_packages) if name.endswith(".pth")]
    for name in sorted(names)[:_MOST_PTH_FILES]:
        try:
            data = read_regular_file(os.path.join(site_packages, name))
        except (OSError, ValueError):
            continue
        for line in data.decode("utf-8", "replace").splitlines()[:MOST_ENTRIES]:
            # Such a line is a program, which only Python can run.
            if line.strip() and not line.startswith(("#", "import ", "import\t")):
                yield os.path.join(site_packages, line.strip())


def _ipykernel(folders: Iterable[str], looked_at: dict[str, None]) -> str | None:
    for folder in folders:
        looked_at[folder] = None
        package = os.path.join(folder, "ipykernel")
        if os.path.isfile(os.path.join(package, "__init__.py")):
            return package
    return None


def _ipykernel_version(package: str | None) -> tuple[int, int]:
    for name in _names(os.path.dirname(package)) if package else ():
        found = _DIST_INFO.fullmatch(name)
        if found is not None:
            return int(found[1]), int(found[2])
    return 0, 0


def _names(folder: str) -> list[str]:
    """Return the names in a folder; none for an unreadable folder."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) >= _MOST_PACKAGES:
                    break
    except (OSError, ValueError):
        return []
    return names


def _times(paths: Iterable[str]) -> dict[str, int | None]:
    return {path: _changed(path) for path in paths}


def _changed(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except (OSError, ValueError):
        return None
