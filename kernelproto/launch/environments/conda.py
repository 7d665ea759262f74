"""The environments of conda, mamba and micromamba."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

from kernelproto.launch.environments.place import MOST_ENTRIES, Place, place_of, subfolders
from kernelproto.launch.own_files import read_regular_file

_CONDARC = (".condarc", "condarc")


def find_in_conda(variables: Mapping[str, str]) -> Iterator[Place]:
    """Yield conda's environments: base, those in conda's folders, those in environments.txt.

    Args:
        variables: the environment variables of this program.
    """
    roots = _roots(variables)
    for root in roots:
        yield from _place(root, "base")
    folders = [
        *_named_folders(variables, roots),
        *(os.path.join(root, "envs") for root in roots),
        os.path.expanduser("~/.conda/envs"),
    ]
    for folder in dict.fromkeys(folders):
        for name in subfolders(folder):
            yield from _place(os.path.join(folder, name), name)
    for prefix in _lines(os.path.expanduser("~/.conda/environments.txt"))[:MOST_ENTRIES]:
        prefix = prefix.strip()
        if os.path.isabs(prefix):
            yield from _place(prefix, "base" if _is_root(prefix) else None)


def _place(prefix: str, label: str | None) -> Iterator[Place]:
    # The user's own configuration names these environments.
    place = place_of(prefix, label, is_own=True)
    if place is not None and place.maker in ("conda", "pixi"):
        yield place


def _roots(variables: Mapping[str, str]) -> list[str]:
    """Return the prefixes of the installations of conda that the variables name."""
    roots = [
        os.path.dirname(os.path.dirname(variables[name]))
        for name in ("CONDA_EXE", "_CONDA_EXE")
        if variables.get(name)
    ]
    roots += [variables[name] for name in ("MAMBA_ROOT_PREFIX", "_CONDA_ROOT") if name in variables]
    return list(dict.fromkeys(os.path.abspath(root) for root in roots if root))


def _is_root(prefix: str) -> bool:
    """Return whether a prefix is an installation of conda itself."""
    return os.path.isdir(os.path.join(prefix, "condabin")) and os.path.isdir(
        os.path.join(prefix, "envs")
    )


def _named_folders(variables: Mapping[str, str], roots: list[str]) -> Iterator[str]:
    """Yield the folders of environments that variables and configuration files name."""
    for name in ("CONDA_ENVS_PATH", "CONDA_ENVS_DIRS"):
        for folder in variables.get(name, "").split(os.pathsep):
            if folder:
                yield os.path.abspath(os.path.expanduser(folder))
    for path in _configuration_files(variables, roots):
        for folder in read_envs_dirs("\n".join(_lines(path))):
            folder = os.path.expanduser(os.path.expandvars(folder))
            if os.path.isabs(folder):
                yield os.path.abspath(folder)


def _configuration_files(variables: Mapping[str, str], roots: list[str]) -> Iterator[str]:
    if variables.get("CONDARC"):
        yield os.path.expanduser(variables["CONDARC"])
    config_home = variables.get("XDG_CONFIG_HOME") or "~/.config"
    system = "C:\\ProgramData\\conda" if sys.platform == "win32" else "/etc/conda"
    for folder in (f"{config_home}/conda", "~/.conda", *roots, system):
        for name in _CONDARC:
            yield os.path.join(os.path.expanduser(folder), name)
    yield os.path.expanduser("~/.condarc")
    yield os.path.expanduser("~/.mambarc")


def read_envs_dirs(text: str) -> list[str]:
    """Return the list ``envs_dirs`` of a configuration file of conda.

    These files are YAML, and the standard library has no YAML parser. This function reads lists in
    both styles, of plain and quoted strings, and comments, and ignores everything else.
    """
    folders: list[str] = []
    in_list = False
    for line in text.splitlines():
        content = _without_comment(line).rstrip()
        if not content:
            continue
        key, colon, rest = content.partition(":")
        if colon and key in ("envs_dirs", "envs_path"):
            in_list = True
            inline = rest.strip()
            if inline.startswith("[") and inline.endswith("]"):
                folders += map(_unquoted, inline[1:-1].split(","))
        elif content.lstrip().startswith("-"):
            if in_list:
                folders.append(_unquoted(content.lstrip()[1:]))
        elif not content[0].isspace():
            in_list = False
    return [folder for folder in folders if folder]


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line.partition(" #")[0]


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _lines(path: str) -> list[str]:
    """Return the lines of a text file; none for an unreadable file."""
    try:
        return read_regular_file(path).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return []
