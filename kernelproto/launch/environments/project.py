"""The environments of a project: venv, uv, pixi and poetry."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

from kernelproto.launch.environments.place import PROJECT_NAMES, Place, maker_of, subfolders
from kernelproto.launch.own_files import read_regular_file

# Each of these marks the folder of a project. A project may be in a larger one, such as a workspace
# of uv; the folder with .git is the largest.
_MARKS = ("pyproject.toml", "pixi.toml", "uv.lock", "environment.yml", "setup.py")
_LARGEST = ".git"

_MOST_LEVELS = 16

# In the canonical name of a package (PEP 503) a minus sign replaces them.
_SEPARATORS = re.compile(r"[-_.]+")

# Poetry replaces these characters in the name of a project, and cuts the name.
_POETRY_REPLACED = re.compile(r'[ $`!*@"\\\r\n\t]')
_POETRY_LONGEST = 42
_POETRY_NAMELESS = "non-package-mode"


def project_folders(start: str) -> list[str]:
    """Return *start* and the folders above it, up to the folder of the project, nearest first.

    Without a project, this is *start* alone. The home folder and the folders above, and folders of
    another user, are searched only if *start* is one of them.

    Args:
        start: an absolute path.
    """
    home = os.path.realpath(os.path.expanduser("~"))
    folders = [start]
    in_project = 1
    for _ in range(_MOST_LEVELS):
        folder = folders[-1]
        is_largest = os.path.exists(os.path.join(folder, _LARGEST))
        if is_largest or any(os.path.isfile(os.path.join(folder, mark)) for mark in _MARKS):
            in_project = len(folders)
        parent = os.path.dirname(folder)
        if is_largest or parent == folder or _contains(parent, home) or _is_foreign(parent):
            break
        folders.append(parent)
    return folders[:in_project]


def find_in_project(start: str, variables: Mapping[str, str]) -> Iterator[Place]:
    """Yield the environments of the project that *start* is in, those of nearer folders first.

    Args:
        start: an absolute path.
        variables: the environment variables of this program.
    """
    folders = project_folders(start)
    yield from _uv(folders[-1], variables)
    for folder in folders:
        yield from _find_in_folder(folder)
        yield from _pixi(folder)
        yield from _poetry(folder, variables)


def _find_in_folder(folder: str) -> Iterator[Place]:
    """Yield the environments directly in a folder, those with usual names first."""
    others = [name for name in subfolders(folder) if name not in PROJECT_NAMES]
    for name in (*PROJECT_NAMES, *others):
        prefix = os.path.join(folder, name)
        if name == ".venv" and os.path.isfile(prefix):
            prefix = _redirected(prefix)
        maker = maker_of(prefix)
        if maker == "venv" and name == ".venv":
            # Poetry and uv make this folder, too, if they are asked to or by default.
            if os.path.isfile(os.path.join(folder, "poetry.lock")):
                maker = "poetry"
            elif os.path.isfile(os.path.join(folder, "uv.lock")):
                maker = "uv"
        if maker is not None:
            yield Place(prefix=prefix, label=name, maker=maker, project=folder)


def _redirected(file: str) -> str:
    """Return the path in a file ``.venv`` (PEP 832), which virtualenv writes and uv follows."""
    try:
        line, _, _ = read_regular_file(file).decode().partition("\n")
    except (OSError, ValueError):
        return file
    return os.path.abspath(os.path.join(os.path.dirname(file), line.strip()))


def _uv(workspace: str, variables: Mapping[str, str]) -> Iterator[Place]:
    """Yield the environment that a variable names, as uv does; by default ``.venv``."""
    named = variables.get("UV_PROJECT_ENVIRONMENT")
    if named and os.path.isfile(os.path.join(workspace, "pyproject.toml")):
        prefix = os.path.abspath(os.path.join(workspace, named))
        if maker_of(prefix) is not None:
            label = os.path.basename(prefix)
            yield Place(prefix=prefix, label=label, maker="uv", project=workspace, is_own=True)


def _pixi(folder: str) -> Iterator[Place]:
    # With detached environments, pixi makes `envs` a symbolic link.
    envs = os.path.join(folder, ".pixi", "envs")
    for name in subfolders(envs):
        prefix = os.path.join(envs, name)
        if maker_of(prefix) is not None:
            yield Place(prefix=prefix, label=f"pixi-{name}", maker="pixi", project=folder)


def _poetry(folder: str, variables: Mapping[str, str]) -> Iterator[Place]:
    """Yield the environments in poetry's cache for the project in this folder."""
    name = _poetry_name(folder)
    if name is None:
        return
    path = os.path.normcase(os.path.realpath(folder))
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
    canonical = _SEPARATORS.sub("-", name.lower())
    short = _POETRY_REPLACED.sub("_", canonical)[:_POETRY_LONGEST]
    stem = f"{short}-{base64.urlsafe_b64encode(digest).decode()[:8]}-"
    root = _poetry_root(folder, variables)
    for entry in subfolders(root):
        prefix = os.path.join(root, entry)
        if entry.startswith(stem) and maker_of(prefix) is not None:
            label = f"poetry-{entry.removeprefix(stem)}"
            yield Place(prefix=prefix, label=label, maker="poetry", project=folder)


def _poetry_name(folder: str) -> str | None:
    """Return the name of a project that poetry manages; None for other projects."""
    project = _read_toml(os.path.join(folder, "pyproject.toml"))
    poetry = _table(project, "tool", "poetry")
    has_lock = os.path.isfile(os.path.join(folder, "poetry.lock"))
    if not poetry and not has_lock:
        return None
    name = _table(project, "project").get("name") or poetry.get("name")
    return name if isinstance(name, str) else _POETRY_NAMELESS


def _poetry_root(folder: str, variables: Mapping[str, str]) -> str:
    """Return the folder of poetry's environments, from poetry's variables and files."""
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        config = os.path.join(variables.get("APPDATA", home), "pypoetry")
        cache = os.path.join(variables.get("LOCALAPPDATA", home), "pypoetry", "Cache")
    elif sys.platform == "darwin":
        config = os.path.join(home, "Library", "Application Support", "pypoetry")
        cache = os.path.join(home, "Library", "Caches", "pypoetry")
    else:
        config_home = variables.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
        cache_home = variables.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
        config = os.path.join(config_home, "pypoetry")
        cache = os.path.join(cache_home, "pypoetry")
    config = variables.get("POETRY_CONFIG_DIR") or config
    own = _read_toml(os.path.join(folder, "poetry.toml"))
    users = _read_toml(os.path.join(config, "config.toml"))
    cache = (
        variables.get("POETRY_CACHE_DIR") or _text(own, "cache-dir") or _text(users, "cache-dir")
    ) or cache
    path = (
        variables.get("POETRY_VIRTUALENVS_PATH")
        or _text(_table(own, "virtualenvs"), "path")
        or _text(_table(users, "virtualenvs"), "path")
        or "{cache-dir}/virtualenvs"
    )
    path = path.replace("{cache-dir}", cache).replace("{project-dir}", folder)
    return os.path.abspath(os.path.expanduser(path))


def _read_toml(path: str) -> Mapping[str, Any]:
    """Return the contents of a TOML file; nothing for an unreadable file."""
    try:
        text = read_regular_file(path).decode()
        import tomllib  # here, because most launches read no such file

        return tomllib.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}


def _table(table: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return the table in a table; an empty one if there is none."""
    for key in keys:
        inner = table.get(key)
        table = cast(Mapping[str, Any], inner) if isinstance(inner, Mapping) else {}
    return table


def _text(table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    return value if isinstance(value, str) else None


def _contains(folder: str, path: str) -> bool:
    folder = os.path.realpath(folder)
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_foreign(folder: str) -> bool:
    """Return whether a folder belongs to another user, except the superuser."""
    if os.name != "posix":
        return False
    try:
        return os.stat(folder).st_uid not in (0, os.geteuid())
    except OSError:
        return True
