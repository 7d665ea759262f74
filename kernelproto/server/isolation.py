"""Isolation of users: each user's kernels run in sandboxes as a system user of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import msgspec
from anyio import to_thread
from msgspec import Meta
from starlette.exceptions import HTTPException

from kernelproto.exceptions import InvalidSettings
from kernelproto.interfaces import User
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.spec.parameters import literal
from kernelproto.server.directories import FOLDER_SECONDS

if TYPE_CHECKING:
    from kernelproto.server.homes import Home  # not on Windows

_ACCOUNTS = "accounts"

# Lower numbers are those of services.
FIRST_USER = 1000
_LAST_USER = 2**32 - 2

# Linux has fewer numbers for processes.
_ANY_PROCESSES = 2**22


class IsolationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How users are isolated.

    Args:
        uids: the numbers of the system users that kernels run as. ``"200000-299999"`` gives each
            user a number of this range, and a home folder in *folder*. ``"accounts"`` means that
            each user has an account of this machine with the same name.
        folder: the folder of the home folders, for a range of *uids*.
        sandbox: the sandbox of every kernel; *uid* must not be set.
    """

    uids: Annotated[str, Meta(pattern=r"\A(accounts|\d{1,10}-\d{1,10})\Z")] | None = None
    folder: str | None = None
    sandbox: Sandbox = Sandbox()

    @property
    def range(self) -> range:
        """The numbers of *uids*; empty for accounts."""
        first, _, last = (self.uids or "").partition("-")
        return range(int(first), int(last) + 1) if last else range(0)

    def check(self, *, multi_user: bool, root_dir: str, is_warm: bool) -> None:
        """Check that the settings fit each other, and the others of the server.

        Args:
            multi_user: the setting of this name.
            root_dir: the setting of this name.
            is_warm: whether kernels are started ahead of time.

        Raises:
            InvalidSettings: they do not.
        """
        if not multi_user:
            raise InvalidSettings(
                "isolate: all users share their kernels (multi_user = false): use isolate = none"
            )
        if root_dir != ".":
            raise InvalidSettings(
                "root_dir: the paths of isolated users are relative to their home folders: remove "
                "root_dir"
            )
        if is_warm:
            raise InvalidSettings(
                "warm: a kernel that is started ahead of time has no user yet, so it cannot be "
                "isolated: remove warm"
            )
        if self.uids is None:
            raise InvalidSettings(
                'isolation.uids: set a range of user numbers, such as "200000-299999", or '
                '"accounts", for isolate = users'
            )
        if self.sandbox.uid is not None:
            raise InvalidSettings(
                "isolation.sandbox: remove uid: isolation.uids gives each user another one"
            )
        if self.uids == _ACCOUNTS:
            if self.folder is not None:
                raise InvalidSettings(
                    "isolation.folder: remove it: accounts have their own home folders"
                )
            return
        numbers = self.range
        if not numbers or numbers.start < FIRST_USER or numbers[-1] > _LAST_USER:
            raise InvalidSettings(
                f"isolation.uids: {self.uids!r} is not a range from {FIRST_USER} or above up to "
                f"{_LAST_USER} or below"
            )
        if self.folder is None or not os.path.isabs(self.folder):
            raise InvalidSettings(
                "isolation.folder: set the absolute path of a folder for the home folders of users"
            )


class Isolation:
    """Gives the kernels of each user a home folder and a sandbox of their own.

    Args:
        settings: how users are isolated.

    Raises:
        InvalidSettings: this is not Linux.
    """

    def __init__(self, settings: IsolationSettings) -> None:
        if sys.platform != "linux":
            raise InvalidSettings("isolate: users can be isolated on Linux only")
        from kernelproto.server.homes import Homes

        self._homes = Homes(settings.folder, settings.range)
        self._sandbox: dict[str, Any] = msgspec.to_builtins(settings.sandbox)

    def check(self) -> None:
        """Check that the home folders can be used; raises as ``Homes.check`` does."""
        self._homes.check()

    async def home(self, user: User) -> Home:
        """Return the home folder of a user; make it if the user is new.

        Raises:
            HTTPException: as for ``Homes.find``; 503, the file system did not answer within
                FOLDER_SECONDS.
        """
        try:
            with anyio.fail_after(FOLDER_SECONDS):
                return await to_thread.run_sync(self._homes.find, user.name, abandon_on_cancel=True)
        except TimeoutError:
            reason = f"the file system did not answer within {FOLDER_SECONDS} s: try again later"
            raise HTTPException(503, reason) from None

    def launch_params(self, home: Home, params: Mapping[str, object]) -> dict[str, object]:
        """Return launch parameters with the sandbox of a user.

        Args:
            home: the home folder of the user.
            params: the other launch parameters. The limit of processes becomes that of the sandbox.
        """
        sandbox = {
            **self._sandbox,
            "uid": home.uid,
            "writable": {**self._sandbox["writable"], home.path: None},
            "hidden": [*self._sandbox["hidden"], os.path.dirname(home.path)],
        }
        return sandboxed(params, sandbox)


def sandboxed(params: Mapping[str, object], sandbox: Mapping[str, object]) -> dict[str, object]:
    """Return launch parameters with a sandbox, which gets their limit of processes."""
    given: Any = params.get("limits") or {}
    limits = dict(given)
    if "processes" in limits:
        sandbox = {**sandbox, "processes": limits.pop("processes") or _ANY_PROCESSES}
    return {**params, "limits": limits, "sandbox": sandbox}


def user_variables(user: User, home: Home) -> dict[str, str]:
    """Return the variables that describe a user to programs."""
    return {"HOME": literal(home.path), "USER": literal(user.name), "LOGNAME": literal(user.name)}
