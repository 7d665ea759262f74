"""The variables that activating an environment sets, without running a shell."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from kernelproto.launch.environments.place import Place
from kernelproto.launch.own_files import read_regular_file

# They would make Python use the files of another installation.
_NEVER_INHERITED = ("PYTHONHOME", "__PYVENV_LAUNCHER__")

_OF_VENV = ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT")
_OF_CONDA = ("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_PROMPT_MODIFIER", "CONDA_SHLVL")

_MOST_FILES = 100
_UNSET = "***unset***"  # conda's value for a removed variable


class Activation(msgspec.Struct, frozen=True):
    """The changes to the environment variables of a kernel.

    Args:
        variables: the variables to set, with ``$`` as in a kernelspec.
        unset: the variables that the kernel does not inherit.
        skipped: the scripts that conda would run, and that are not run.
    """

    variables: Mapping[str, str]
    unset: tuple[str, ...]
    skipped: tuple[str, ...] = ()


def activation_of(place: Place, inherited: Mapping[str, str]) -> Activation:
    """Return the variables that activating an environment sets and removes.

    Args:
        place: the environment.
        inherited: the variables of this program. The folders of the environment that is active here
            do not stay in PATH.
    """
    prefix = place.prefix
    if place.maker not in ("conda", "pixi"):
        path = _path([_bin(prefix)], inherited)
        return Activation(
            {"PATH": path, "VIRTUAL_ENV": _literal(prefix)},
            (*_NEVER_INHERITED, "VIRTUAL_ENV_PROMPT"),
        )
    variables = {
        "CONDA_PREFIX": _literal(prefix),
        "CONDA_DEFAULT_ENV": _literal(_conda_name(place)),
        "CONDA_SHLVL": "1",
    }
    if place.maker == "pixi" and place.project is not None:
        variables["PIXI_PROJECT_ROOT"] = _literal(place.project)
        variables["PIXI_ENVIRONMENT_NAME"] = _literal(os.path.basename(prefix))
    unset = [*_NEVER_INHERITED, *_OF_VENV, "CONDA_PROMPT_MODIFIER"]
    for name, value in _conda_variables(prefix).items():
        if value == _UNSET:
            unset.append(name)
        else:
            variables[name] = _literal(value)
    variables["PATH"] = _path(_conda_folders(prefix), inherited)
    return Activation(variables, tuple(unset), tuple(_scripts(prefix)))


def _bin(prefix: str) -> str:
    return os.path.join(prefix, "Scripts" if os.name == "nt" else "bin")


def _conda_folders(prefix: str) -> list[str]:
    if os.name != "nt":
        return [os.path.join(prefix, "bin")]
    inner = ("", r"Library\mingw-w64\bin", r"Library\usr\bin", r"Library\bin", "Scripts", "bin")
    return [os.path.join(prefix, folder) if folder else prefix for folder in inner]


def _conda_name(place: Place) -> str:
    """Return the name of an environment in conda's format: the path if there is no name."""
    envs, name = os.path.split(place.prefix)
    if place.maker == "pixi":
        return name
    if place.label == "base":
        return "base"
    return name if os.path.basename(envs) == "envs" else place.prefix


def _path(folders: list[str], inherited: Mapping[str, str]) -> str:
    active = {
        folder
        for prefix in map(inherited.get, ("VIRTUAL_ENV", "CONDA_PREFIX"))
        if prefix
        for folder in (_bin(prefix), *_conda_folders(prefix))
    }
    before = inherited.get("PATH", os.defpath).split(os.pathsep)
    kept = [folder for folder in before if folder not in active]
    if kept == before and "PATH" in inherited:
        return os.pathsep.join([*map(_literal, folders), "${PATH}"])
    return os.pathsep.join(map(_literal, [*folders, *kept]))


def _conda_variables(prefix: str) -> dict[str, str]:
    """Return the variables that packages and ``conda env config vars set`` have set."""
    folder = os.path.join(prefix, "etc", "conda", "env_vars.d")
    variables: dict[str, str] = {}
    for name in _files(folder, ".json"):
        variables |= _strings(_read_json(os.path.join(folder, name)))
    state = _read_json(os.path.join(prefix, "conda-meta", "state"))
    return variables | _strings(state.get("env_vars"))


def _scripts(prefix: str) -> list[str]:
    folder = os.path.join(prefix, "etc", "conda", "activate.d")
    return _files(folder, ".bat" if os.name == "nt" else ".sh")


def _files(folder: str, suffix: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [name for name in names if name.endswith(suffix)][:_MOST_FILES]


def _read_json(path: str) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(read_regular_file(path), type=dict[str, Any])
    except (OSError, ValueError, RecursionError):
        return {}


def _strings(value: object) -> dict[str, str]:
    """Return the entries that can be environment variables."""
    if not isinstance(value, Mapping):
        return {}
    pairs = cast(Mapping[str, object], value).items()
    return {
        name: text
        for name, text in pairs
        if isinstance(text, str) and name and not {"=", "\0"} & {*name} and "\0" not in text
    }


def _literal(text: str) -> str:
    """Escape a value, so that the kernel gets exactly this text."""
    return text.replace("$", "$$")
