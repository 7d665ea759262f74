"""Isolation of users: each user's kernels run in sandboxes as a system user of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio import to_thread
from starlette.exceptions import HTTPException

from kernelproto.exceptions import InvalidSettings
from kernelproto.interfaces import User
from kernelproto.launch.spec.parameters import literal
from kernelproto.server.directories import FOLDER_SECONDS
from kernelproto.server.isolation_settings import IsolationSettings

if TYPE_CHECKING:
    from kernelproto.server.homes import Home  # not on Windows

# Linux has fewer numbers for processes.
_ANY_PROCESSES = 2**22


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
