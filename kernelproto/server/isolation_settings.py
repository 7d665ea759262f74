"""The settings of a kernel server about the isolation of users."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
from msgspec import Meta

from kernelproto.exceptions import InvalidSettings
from kernelproto.launch.process.sandbox import Sandbox

_ACCOUNTS = "accounts"

# Lower numbers are those of services.
FIRST_USER = 1000
_LAST_USER = 2**32 - 2


class IsolationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How users are isolated.

    Args:
        uids: the numbers of the system users that kernels run as. ``"200000-299999"`` gives each
            user a number of this range, and a home folder in *folder*. ``"accounts"`` means that
            each user has an account of this machine with the same name.
        folder: the folder of the home folders, for a range of *uids*.
        home_memory: the bytes of each home folder, which is then in memory (tmpfs), until the
            machine restarts. By default home folders are on the disk, without a quota.
        sandbox: the sandbox of every kernel; *uid* must not be set.
    """

    uids: Annotated[str, Meta(pattern=r"\A(accounts|\d{1,10}-\d{1,10})\Z")] | None = None
    folder: str | None = None
    home_memory: Annotated[int, Meta(ge=2**20)] | None = None
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
            if self.home_memory is not None:
                raise InvalidSettings(
                    "isolation.home_memory: remove it: the home folders of accounts are not made "
                    "by this server; set quotas of their file system instead"
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
