"""Isolation of users: each user's kernels run in sandboxes as a system user of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from starlette.exceptions import HTTPException

from kernelproto.exceptions import InvalidSettings
from kernelproto.interfaces import User
from kernelproto.launch.spec.parameters import literal
from kernelproto.server.directories import FOLDER_SECONDS
from kernelproto.server.isolation_settings import IsolationSettings

if TYPE_CHECKING:
    from kernelproto.server.homes import Home  # not on Windows


class Isolation:
    """Gives the kernels of each user a home folder and a sandbox of their own.

    Args:
        settings: how users are isolated.

    Attributes:
        sandbox: the sandbox of each kernel, unless other settings change it.

    Raises:
        InvalidSettings: this is not Linux.
    """

    def __init__(self, settings: IsolationSettings) -> None:
        if sys.platform != "linux":
            raise InvalidSettings("isolate: users can be isolated on Linux only")
        from kernelproto.server.homes import Homes

        self._homes = Homes(settings.folder, settings.range, memory=settings.home_memory)
        self.sandbox = settings.sandbox

    def check(self) -> None:
        """Check that the home folders can be used; raises as ``Homes.check`` does."""
        self._homes.check()

    async def home(self, user: User) -> Home:
        """Return the home folder of a user; make the folder for a new user.

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

    def sandbox_of(self, home: Home, sandbox: Mapping[str, object]) -> dict[str, object]:
        """Return the settings of a sandbox for the owner of a home folder.

        Args:
            home: the home folder.
            sandbox: the other settings.
        """
        given: Any = sandbox
        return {
            **given,
            "uid": home.owner.uid,
            "writable": {**given.get("writable", {}), home.path: None},
            "hidden": [*given.get("hidden", ()), os.path.dirname(home.path)],
        }


def user_variables(user: User, home: Home) -> dict[str, str]:
    """Return the variables that describe a user to programs."""
    return {"HOME": literal(home.path), "USER": literal(user.name), "LOGNAME": literal(user.name)}
