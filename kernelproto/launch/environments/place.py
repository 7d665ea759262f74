"""Place: a folder that may be a Python environment, and the rules that all searches share."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

# The program that has made an environment, and that installs packages there.
Maker = Literal["venv", "uv", "poetry", "conda", "pixi"]

# The names that programs and tutorials give to the environment of a project. They say nothing about
# an environment elsewhere.
PROJECT_NAMES = (".venv", "venv", ".env", "env", ".conda")

# A folder with more entries is not a list of environments.
MOST_ENTRIES = 500

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")
_DIGITS = 6


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """An environment found by a search.

    Args:
        prefix: the absolute path of the folder.
        label: the name of the kernel type, unless another environment has this name.
        maker: the program that has made the environment.
        project: the folder of the project; None for an environment without a project.
        is_own: whether the user has named the environment, by activation or in the configuration.
            Other environments must belong to the user.
    """

    prefix: str
    label: str
    maker: Maker
    project: str | None = None
    is_own: bool = False

    @property
    def name(self) -> str:
        """The label with nothing but ASCII letters, digits and ``._-``."""
        name = _OTHER_CHARACTERS.sub("-", self.label).strip("-")
        return name if name.strip(".") else "environment"

    @property
    def full_name(self) -> str:
        """A name that no other environment of this machine has; depends only on the folder."""
        return f"{self.name}-{self.digest[:_DIGITS]}"

    @property
    def digest(self) -> str:
        """Hexadecimal digits that depend on nothing but the real path."""
        return hashlib.sha256(os.fsencode(self.identity)).hexdigest()

    @property
    def identity(self) -> str:
        """The real path; equal for two paths to the same environment."""
        return os.path.normcase(os.path.realpath(self.prefix))

    def fault(self) -> str | None:
        """Return why programs of this environment are not run; None if they are.

        A project may be in a folder to which other users can write, such as /tmp. Programs that
        they put there must not run as this user.
        """
        if self.is_own or os.name != "posix":
            return None
        try:
            owner = os.stat(self.prefix).st_uid
        except OSError as error:
            return f"{self.prefix} cannot be read: {error.strerror}"
        if owner in (0, os.geteuid()):
            return None
        return (
            f"{self.prefix} belongs to another user (uid {owner}): to trust its programs, activate "
            "it first"
        )


def maker_of(prefix: str) -> Maker | None:
    """Return the program that has made an environment; None if *prefix* is not an environment."""
    if os.path.isfile(os.path.join(prefix, "pyvenv.cfg")):
        return "venv"
    if os.path.isdir(os.path.join(prefix, "conda-meta")):
        return "pixi" if _pixi_project(prefix) else "conda"
    return None


def place_of(prefix: str, label: str | None = None, *, is_own: bool) -> Place | None:
    """Return the place of an environment outside of the project; None if there is none.

    Args:
        prefix: the folder.
        label: the label; by default the name of the folder, or for a folder like ``.venv`` the name
            of the folder that contains it.
        is_own: see Place.
    """
    prefix = os.path.abspath(prefix)
    maker = maker_of(prefix)
    if maker is None:
        return None
    parent, name = os.path.split(prefix)
    project = _pixi_project(prefix)
    if label is None:
        if project:
            label = f"{os.path.basename(project)}-{name}"
        else:
            label = os.path.basename(parent) if name in PROJECT_NAMES else name
    return Place(prefix=prefix, label=label, maker=maker, project=project, is_own=is_own)


def subfolders(folder: str) -> Sequence[str]:
    """Return the names of the folders in *folder*, sorted; none if there are too many entries."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count >= MOST_ENTRIES:
                    return []
                if entry.is_dir():
                    names.append(entry.name)
    except OSError:
        return []
    return sorted(names)


def _pixi_project(prefix: str) -> str | None:
    """Return the project of an environment in ``.pixi/envs``."""
    envs = os.path.dirname(prefix)
    dot_pixi = os.path.dirname(envs)
    if os.path.basename(envs) == "envs" and os.path.basename(dot_pixi) == ".pixi":
        return os.path.dirname(dot_pixi)
    return None
