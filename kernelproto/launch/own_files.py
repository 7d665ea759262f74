"""Reading files safely, although another program may have replaced them.

Theory of operation
-------------------
Opening a path can block without end (a named pipe without a writer), and reading can exhaust the
memory (/dev/zero). So a file is opened without blocking, and read only if it is a regular file, up
to a maximum size.

A file in the runtime folder decides which processes are signalled and which files are removed. A
file is trusted only if no other user can have written the file. It belongs to this user and is not
a symbolic link. Other users cannot replace the file, because they cannot write to the folder, or
because the folder has the sticky bit. The superuser is trusted like this user. Windows has no such
owners and modes, so only kind and size are checked there.
"""

from __future__ import annotations

import errno
import logging
import os
import stat

logger = logging.getLogger(__name__)

# Records hold a command line, connection files a few addresses and keys.
LONGEST_FILE = 1024 * 1024

_NEVER_BLOCK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_SUPERUSER = 0

# Each path is logged once in the life of this process, up to this number of paths.
_MOST_LOGGED = 100
_logged: set[str] = set()


def open_regular_file(path: str, *, follow_links: bool = True) -> int:
    """Open a regular file for reading, without blocking; return the descriptor.

    Args:
        path: the path of the file.
        follow_links: whether the path may be a symbolic link.

    Raises:
        OSError: the file does not exist or is not a regular file.
        ValueError: the path has a NUL character.
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
    """Read a regular file; follow symbolic links.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is longer than LONGEST_FILE.
        ValueError: the path has a NUL character.
    """
    return _read(open_regular_file(path), path)


def read_own_file(path: str) -> bytes:
    """Read a regular file that belongs to this user; see read_regular_file().

    Raises:
        OSError: also if the path is a symbolic link or the file belongs to another user.
    """
    descriptor = open_regular_file(path, follow_links=False)
    owner = os.fstat(descriptor).st_uid
    if _is_foreign(owner):
        os.close(descriptor)
        raise OSError(errno.EPERM, f"it belongs to another user (uid {owner})", path)
    return _read(descriptor, path)


def is_own_file(path: str) -> bool:
    """Return whether the path is a regular file of this user, not a symbolic link."""
    try:
        about = os.lstat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(about.st_mode) and not _is_foreign(about.st_uid)


def is_own_link(path: str) -> bool:
    """Return whether the path is a symbolic link of this user.

    Raises:
        OSError: the path does not exist, or cannot be examined.
    """
    about = os.lstat(path)
    return stat.S_ISLNK(about.st_mode) and not _is_foreign(about.st_uid)


def folder_fault(path: str, *, private: bool) -> str | None:
    """Return why the files in a folder are not trusted; None if they are, or without the folder.

    Args:
        path: the path of the folder.
        private: whether only this user may own the folder and write there. Otherwise the folder may
            belong to the superuser, be a symbolic link, or, with the sticky bit, be writable by
            others.
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
    """Log that a file or folder is neither used nor removed: once a path, for at most 100 paths."""
    if path in _logged or len(_logged) >= _MOST_LOGGED:
        return
    _logged.add(path)
    logger.warning("%s is left alone: %s", path, reason)


def _read(descriptor: int, path: str) -> bytes:
    with open(descriptor, "rb") as file:
        data = file.read(LONGEST_FILE + 1)
    if len(data) > LONGEST_FILE:
        raise OSError(errno.EFBIG, f"it is longer than {LONGEST_FILE} bytes", path)
    return data


def _is_foreign(owner: int) -> bool:
    return os.name == "posix" and owner != os.geteuid()
