"""Finding the environments, and naming them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from kernelproto.launch.environments.conda import find_in_conda
from kernelproto.launch.environments.place import Place, place_of, subfolders
from kernelproto.launch.environments.project import find_in_project

Source = Literal["project", "active", "conda"]

ALL_SOURCES: tuple[Source, ...] = ("project", "active", "conda")

# An answer with more kernel types helps no user.
_MOST_PLACES = 500


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration of an EnvironmentProvider; see there."""

    sources: tuple[Source, ...] = ALL_SOURCES
    project: str | None = None
    folders: tuple[str, ...] = ()


def find_places(
    start: str | None,
    sources: Sequence[Source],
    folders: Sequence[str],
    variables: Mapping[str, str],
) -> dict[str, Place]:
    """Return the environments by name.

    The project's environments come first, then the active one, then those in *folders*, then
    conda's. An environment that is found twice counts once. If two environments have the same
    label, ignoring case, the first one is named by the label, and the second by ``full_name``.

    Args:
        start: a folder of the project to search; None means no project.
        sources: the searches to perform.
        folders: further folders that contain environments.
        variables: the environment variables of this program.
    """
    return name_places(_find(start, sources, folders, variables))


def name_places(places: Iterable[Place]) -> dict[str, Place]:
    """Return the environments by name; see find_places()."""
    named: dict[str, Place] = {}
    names: dict[str, str] = {}  # by the identity of the place
    taken: set[str] = set()
    for place in places:
        identity = place.identity
        if identity in names:
            if place.is_own:
                known = named[names[identity]]
                named[names[identity]] = msgspec.structs.replace(known, is_own=True)
            continue
        name = place.name
        if name.lower() in taken:
            name = place.full_name
        if name.lower() in taken:  # the label of another environment looks like this name
            name = f"{place.name}-{place.digest}"
        taken.add(name.lower())
        names[identity] = name
        named[name] = place
        if len(named) >= _MOST_PLACES:
            break
    return named


def name_of(name: str, places: Mapping[str, Place]) -> str | None:
    """Return the name in *places* that *name* stands for; None if there is none.

    The case is ignored, and *name* may be the ``full_name`` of an environment.
    """
    wanted = name.lower()
    for known in places:
        if known.lower() == wanted:
            return known
    for known, place in places.items():
        if place.full_name.lower() == wanted:
            return known
    return None


def _find(
    start: str | None,
    sources: Sequence[Source],
    folders: Sequence[str],
    variables: Mapping[str, str],
) -> Iterator[Place]:
    if "project" in sources and start is not None:
        yield from find_in_project(start, variables)
    found: list[Place | None] = []
    if "active" in sources:
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
            if variables.get(name):
                found.append(_active(variables[name], variables))
    for folder in folders:
        folder = os.path.abspath(os.path.expanduser(folder))
        for name in subfolders(folder):
            found.append(place_of(os.path.join(folder, name), is_own=True))
    yield from filter(None, found)
    if "conda" in sources:
        yield from find_in_conda(variables)


def _active(prefix: str, variables: Mapping[str, str]) -> Place | None:
    is_base = prefix == variables.get("CONDA_PREFIX") and (
        variables.get("CONDA_DEFAULT_ENV") == "base"
    )
    return place_of(prefix, "base" if is_base else None, is_own=True)
