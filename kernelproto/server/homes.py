"""The home folders of isolated users, and the numbers of their owners.

POSIX only. All calls block.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import re
import stat
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import quote

from starlette.exceptions import HTTPException

from kernelproto.exceptions import InvalidSettings
from kernelproto.file_owner import Owner
from kernelproto.launch.programs import namespaces
from kernelproto.server.directories import FOLDER_SECONDS
from kernelproto.server.isolation_settings import FIRST_USER

_NOBODY = 65534

# A longer name is shortened. A file name has at most 255 bytes.
_MOST_NAME = 180

# Folders that are being made. No name of a user gives such a name.
_NEW = "+new-"

# The bytes per file of a home folder in memory, which limit the number of files.
_BYTES_PER_FILE = 4096
_LEAST_FILES = 256

# How often a thread tries to get the lock.
_LOCK_SECONDS = 0.01


class Home(NamedTuple):
    """The home folder of a user, and the owner of the folder."""

    path: str
    owner: Owner


class Homes:
    """Finds and makes the home folders of users.

    The owner of a home folder is the record of the number of a user. So a user keeps the number
    across restarts of the server, and a number is free again once its folder is removed.

    Args:
        folder: the folder of the home folders; None for those of the accounts of this machine.
        uids: the numbers that users get in the folder.
        memory: the bytes of each home folder in memory; None for home folders on the disk.
    """

    def __init__(self, folder: str | None, uids: range, *, memory: int | None = None) -> None:
        self._folder = None if folder is None else os.path.realpath(folder)
        self._range = uids
        self._memory = memory

    def check(self) -> None:
        """Make the folder of the home folders; check that the whole path belongs to this server.

        Raises:
            InvalidSettings: the folder, or a number of a user, is used by others, or home folders
                cannot be in memory.
        """
        folder = self._folder
        if folder is None:
            return
        taken = next((user for user in pwd.getpwall() if user.pw_uid in self._range), None)
        if taken is not None:
            raise InvalidSettings(
                f"isolation.uids: {taken.pw_uid} is the account {taken.pw_name!r}: choose a range "
                "without accounts"
            )
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            unsafe = _unsafe_parent(folder)
            if unsafe is not None:
                raise InvalidSettings(
                    f"isolation.folder: other users than root can write to {unsafe!r}: choose a "
                    "folder that only root can replace"
                )
            for name, owner in self._owners(folder):
                if owner not in self._range:
                    raise InvalidSettings(
                        f"isolation.uids: {os.path.join(folder, name)!r} belongs to user {owner}, "
                        "which is outside of the range: choose a range with all owners, or "
                        "move the folder away"
                    )
            self._check_memory(folder)
        except OSError as error:
            raise InvalidSettings(
                f"isolation.folder: {folder!r} cannot be used: {error.strerror}"
            ) from None

    def _check_memory(self, folder: str) -> None:
        """Check that a file system in memory can be mounted, and unmount it."""
        if self._memory is None:
            return
        with _locked(folder):
            trial = tempfile.mkdtemp(prefix=_NEW, dir=folder)
            try:
                self._mount(Home(trial, Owner(0, 0)))
                namespaces.unmount(trial)
            except OSError as error:
                raise InvalidSettings(
                    f"isolation.home_memory: this machine cannot enforce it: {error.strerror}"
                ) from None
            finally:
                os.rmdir(trial)

    def find(self, name: str) -> Home:
        """Return the home folder of a user; make the folder for a new user.

        Raises:
            HTTPException: 403, there is no such account; 503, no number is left, or the folder
                does not belong to the user alone.
        """
        try:
            return (
                _home_of_account(name) if self._folder is None else self._find(self._folder, name)
            )
        except OSError as error:
            file = "it" if error.filename is None else error.filename
            raise _unusable(f"{file} cannot be used: {error.strerror}") from error

    def _find(self, folder: str, name: str) -> Home:
        path = os.path.join(folder, folder_name(name))
        home = self._existing(path)
        if home is None or (self._memory is not None and not os.path.ismount(path)):
            with _locked(folder):
                home = self._existing(path) or self._make(folder, path)
                if self._memory is not None and not os.path.ismount(path):
                    self._mount(home)
        return home

    def _mount(self, home: Home) -> None:
        """Mount a file system in memory at a home folder, which is empty then."""
        files = max((self._memory or 0) // _BYTES_PER_FILE, _LEAST_FILES)
        namespaces.mount(
            "tmpfs",
            home.path,
            namespaces.MS_NOSUID | namespaces.MS_NODEV,
            f"size={self._memory},nr_inodes={files},mode=0700,"
            f"uid={home.owner.uid},gid={home.owner.gid}",
        )

    def _existing(self, path: str) -> Home | None:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in self._range:
            raise _unusable(f"{path} is not a folder of a user in isolation.uids")
        return Home(path, Owner(found.st_uid, found.st_uid))

    def _make(self, folder: str, path: str) -> Home:
        taken = {owner for _, owner in self._owners(folder)}
        uid = next((uid for uid in self._range if uid not in taken), None)
        if uid is None:
            raise _unusable("no number is left in isolation.uids")
        new = tempfile.mkdtemp(prefix=_NEW, dir=folder)  # for this user only
        os.chown(new, uid, uid)
        os.rename(new, path)
        return Home(path, Owner(uid, uid))

    def _owners(self, folder: str) -> Iterator[tuple[str, int]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(_NEW):
                    yield entry.name, entry.stat(follow_symlinks=False).st_uid


def folder_name(user: str) -> str:
    """Return the name of a user's folder. Different users have different ones."""
    name = quote(user, safe="", errors="surrogatepass")
    if len(name) > _MOST_NAME:
        digest = hashlib.sha256(user.encode(errors="surrogatepass")).hexdigest()
        return f"{name[: _MOST_NAME - len(digest)]}+{digest}"
    return re.sub(r"\A\.", "%2E", name)


def _home_of_account(name: str) -> Home:
    try:
        account = pwd.getpwnam(name)
    except (KeyError, ValueError):  # a ValueError if no account can have this name
        raise HTTPException(403, "this machine has no account with your name") from None
    if account.pw_uid < FIRST_USER or account.pw_uid == _NOBODY:
        raise HTTPException(403, "the account with your name is not that of a person")
    path = os.path.realpath(account.pw_dir)
    if os.stat(path).st_uid != account.pw_uid:
        raise _unusable(f"the home folder {path} does not belong to its account")
    unsafe = _unsafe_parent(os.path.dirname(path))
    if unsafe is not None:
        raise _unusable(f"other users than root can write to {unsafe}")
    return Home(path, Owner(account.pw_uid, account.pw_gid or account.pw_uid))


def _unsafe_parent(path: str) -> str | None:
    """Return a folder of a path in which other users than root can replace files."""
    while True:
        found = os.lstat(path)
        is_shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if found.st_uid != 0 or (is_shared and not found.st_mode & stat.S_ISVTX):
            return path
        if path == "/":
            return None
        path = os.path.dirname(path)


def _unusable(reason: str) -> HTTPException:
    return HTTPException(503, f"the server has no home folder for you: {reason}")


@contextmanager
def _locked(folder: str) -> Generator[None]:
    """Hold the lock of a folder, so that two servers choose different numbers for two users."""
    by = time.monotonic() + FOLDER_SECONDS
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > by:
                    raise _unusable(f"another program holds the lock of {folder}") from None
                time.sleep(_LOCK_SECONDS)
        for name in os.listdir(folder):  # of servers that were killed
            if name.startswith(_NEW):
                os.rmdir(os.path.join(folder, name))
        yield
    finally:
        os.close(descriptor)
