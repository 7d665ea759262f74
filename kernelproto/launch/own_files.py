"""Reading files that another program may have put in the place of those that are expected.

Theory of operation
-------------------
Opening a path can block for ever (a named pipe without a writer), and reading it can take all of
the memory (/dev/zero). So a file is opened without blocking, is read only if it is a regular file,
and only up to a bound.

A file in the runtime folder decides which processes are signalled and which files are removed. It
is trusted only if no other user can have written it: it belongs to this user, it is no symbolic
link, and others cannot replace it, because they cannot write to its folder, or because the folder
has the sticky bit. The superuser is trusted like this user. On Windows, where files have no such
owners and modes, only kind and size are checked.
"""

from __future__ import annotations

import errno
import logging
import os
import stat

logger = logging.getLogger(__name__)

# A record holds a command line, a connection file a few addresses and keys.
LONGEST_FILE = 1024 * 1024

_NEVER_BLOCK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_SUPERUSER = 0

# Each path is named once in the life of this process, and no more paths than this.
_MOST_NAMED = 100
_named: set[str] = set()


def open_regular_file(path: str, *, follow_links: bool = True) -> int:
    """Open a regular file for reading, without blocking; return the descriptor.

    Args:
        path: of the file.
        follow_links: whether it may be a symbolic link to one.

    Raises:
        OSError: there is no such file, or it is not a regular one.
        ValueError: the path has a NUL character in it.
    """
    flags = os.O_RDONLY | _NEVER_BLOCK | _BINARY | (0 if follow_links else _NO_LINKS)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_links:
            raise OSError(errno.ELOOP, "it is a symbolic link", path) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"
        raise OSError(errno.EINVAL, kind, path)
    return descriptor


def read_regular_file(path: str) -> bytes:
    """Read a regular file, or a symbolic link to one.

    Raises:
        OSError: it cannot be read, is not a regular file, or is longer than LONGEST_FILE.
        ValueError: the path has a NUL character in it.
    """
    return _read(open_regular_file(path), path)


def read_own_file(path: str) -> bytes:
    """Read a regular file that belongs to this user; raises as read_regular_file() does.

    Raises:
        OSError: also if it is a symbolic link, or belongs to another user.
    """
    descriptor = open_regular_file(path, follow_links=False)
    owner = os.fstat(descriptor).st_uid
    if _is_foreign(owner):
        os.close(descriptor)
        raise OSError(errno.EPERM, f"it belongs to another user (uid {owner})", path)
    return _read(descriptor, path)


def is_own_file(path: str) -> bool:
    """Return whether there is a regular file that belongs to this user; no symbolic link is."""
    try:
        about = os.lstat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(about.st_mode) and not _is_foreign(about.st_uid)


def folder_fault(path: str, *, private: bool) -> str | None:
    """Return why the files in a folder are not trusted; None where they are, or without a folder.

    Args:
        path: of the folder.
        private: whether it has to be this user's own, which no other user may write to. Otherwise
            it may be the superuser's, a symbolic link, or, with the sticky bit, writable by others.
    """
    try:
        about = os.lstat(path) if private else os.stat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(about.st_mode):
        return f"{path} is not a folder"
    if os.name != "posix":
        return None
    if _is_foreign(about.st_uid) and (private or about.st_uid != _SUPERUSER):
        return f"{path} belongs to another user (uid {about.st_uid})"
    if about.st_mode & _WRITABLE_BY_OTHERS and (private or not about.st_mode & stat.S_ISVTX):
        return f"other users may write to {path}: chmod go-w {path}"
    return None


def leave_alone(path: str, reason: object) -> None:
    """Log that a file or folder is not used or removed: once for each path, 100 at the most."""
    if path in _named or len(_named) >= _MOST_NAMED:
        return
    _named.add(path)
    logger.warning("%s is left alone: %s", path, reason)


def _read(descriptor: int, path: str) -> bytes:
    with open(descriptor, "rb") as file:
        data = file.read(LONGEST_FILE + 1)
    if len(data) > LONGEST_FILE:
        raise OSError(errno.EFBIG, f"it is longer than {LONGEST_FILE} bytes", path)
    return data


def _is_foreign(owner: int) -> bool:
    return os.name == "posix" and owner != os.geteuid()
