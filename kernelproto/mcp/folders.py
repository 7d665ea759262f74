"""Folders: the files of the conversations, each conversation in a folder of its own.

Theory of operation
-------------------
The code of a conversation can replace any part of its folder by a symbolic link at any time. So no
path is checked and then opened. Each part of a name is opened relative to the descriptor of the
folder before, and never through a symbolic link. A file is written under a temporary name and
renamed, so a reader never sees half of it, and a link in its place is replaced and not followed.

This protects the files outside from the names in calls. The code itself is confined by a sandbox
only.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import NamedTuple

from kernelproto.mcp.limits import Limits, Refused
from kernelproto.mcp.names import split_name

logger = logging.getLogger(__name__)

_CLOSED_ON_EXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _CLOSED_ON_EXEC
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _CLOSED_ON_EXEC  # a pipe must not block
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOSED_ON_EXEC

_TEMPORARY = ".kernelproto-"
_DEEPEST = 16


class File(NamedTuple):
    """A file of a conversation: its name with subfolders, and its size in bytes."""

    name: str
    size: int


class Part(NamedTuple):
    """A part of a file, and the size of the whole file in bytes."""

    data: bytes
    size: int


class Folders:
    """The folders of all conversations in one root folder; its methods block.

    Args:
        root: the path of the root folder, which exists.
        limits: the limits for files.
        owner: the number of the user who owns all files; None means the user of this program.

    Raises:
        OSError: the root cannot be opened.
    """

    def __init__(self, root: str, limits: Limits, *, owner: int | None = None) -> None:
        self._path = os.path.realpath(root)
        self._limits = limits
        self._owner = owner
        self._root = os.open(self._path, _FOLDER)

    def close(self) -> None:
        """Close the root folder."""
        os.close(self._root)

    def path(self, conversation: str) -> str:
        """Return the path of a conversation's folder."""
        return os.path.join(self._path, conversation)

    def make(self, conversation: str) -> None:
        """Make a conversation's folder, if there is none.

        Raises:
            Refused: the folder cannot be made or opened.
        """
        with _refusing(conversation):
            os.close(self._make(conversation, self._root))

    def exists(self, conversation: str) -> bool:
        """Return whether a conversation has a folder."""
        try:
            found = os.stat(conversation, dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(found.st_mode)

    def files(self, conversation: str) -> tuple[list[File], bool]:
        """Return a conversation's files by name, and whether there are more than the limit.

        Raises:
            Refused: the conversation has no folder.
        """
        with self._opened(conversation, []) as folder:
            found = list(islice(_walk(folder), self._limits.files + 1))
        return sorted(found[: self._limits.files]), len(found) > self._limits.files

    def read(self, conversation: str, name: str, *, offset: int = 0, length: int) -> Part:
        """Read a part of a file; an offset beyond its end gives an empty part.

        Raises:
            Refused: the file cannot be read, or is not a regular file.
        """
        *folders, last = split_name(name)
        with self._opened(conversation, folders) as folder, _refusing(name):
            descriptor = os.open(last, _READ, dir_fd=folder)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise Refused(f"{name!r} is not a regular file")
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    file.seek(offset)
                    return Part(file.read(length), status.st_size)
            finally:
                os.close(descriptor)

    def write(self, conversation: str, name: str, data: bytes) -> None:
        """Write a file, and make its subfolders; a file of this name is replaced.

        Raises:
            Refused: the file exceeds a limit, or cannot be written.
        """
        *folders, last = split_name(name)
        self._check_quota(conversation, name, len(data))
        with self._opened(conversation, folders, make=True) as folder, _refusing(name):
            temporary = _TEMPORARY + uuid.uuid4().hex
            descriptor = os.open(temporary, _CREATE, 0o600, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    self._give(descriptor)
                os.rename(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def remove(self, conversation: str, name: str) -> None:
        """Remove a file, if it exists.

        Raises:
            Refused: the file cannot be removed.
        """
        *folders, last = split_name(name)
        with (
            self._opened(conversation, folders) as folder,
            _refusing(name),
            suppress(FileNotFoundError),
        ):
            os.unlink(last, dir_fd=folder)

    def clear(self, conversation: str) -> None:
        """Remove a conversation's folder and all its files; log a failure."""
        try:
            shutil.rmtree(conversation, dir_fd=self._root)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("cannot remove the files of conversation %s: %s", conversation, error)

    def _check_quota(self, conversation: str, name: str, size: int) -> None:
        limits = self._limits
        if size > limits.file_bytes:
            raise Refused(f"{name!r} has {size:,} bytes; at most {limits.file_bytes:,} are allowed")
        files, more = self.files(conversation)
        others = [file for file in files if file.name != name]
        if more or len(others) >= limits.files:
            raise Refused(f"the conversation has {limits.files:,} files already: remove some first")
        if sum(file.size for file in others) + size > limits.folder_bytes:
            raise Refused(
                f"the files of the conversation would exceed {limits.folder_bytes:,} bytes: remove "
                "some first"
            )

    def _make(self, name: str, parent: int) -> int:
        """Make a folder, if there is none; return its descriptor."""
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
        self._give(descriptor)
        return descriptor

    def _give(self, descriptor: int) -> None:
        """Give an open file or folder to the owner."""
        if self._owner is not None:
            os.fchown(descriptor, self._owner, self._owner)

    @contextmanager
    def _opened(
        self, conversation: str, folders: list[str], *, make: bool = False
    ) -> Generator[int]:
        """Open a conversation's folder, or a subfolder of it, for the block."""
        with _refusing("/".join(folders) or conversation):
            descriptor = os.open(conversation, _FOLDER, dir_fd=self._root)
            try:
                for part in folders:
                    if make:
                        inner = self._make(part, descriptor)
                    else:
                        inner = os.open(part, _FOLDER, dir_fd=descriptor)
                    os.close(descriptor)
                    descriptor = inner
                yield descriptor
            finally:
                os.close(descriptor)


@contextmanager
def _refusing(name: str) -> Generator[None]:
    """Raise Refused, with the name of the file, for an OSError of the block."""
    try:
        yield
    except FileNotFoundError:
        raise Refused(f"{name!r} does not exist") from None
    except OSError as error:
        link = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
        reason = "it is not what the name says, or a symbolic link" if link else error.strerror
        raise Refused(f"{name!r} cannot be used: {reason}") from None


def _walk(folder: int, prefix: str = "", depth: int = 0) -> Iterator[File]:
    """Yield the regular files below an open folder; symbolic links are left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY) or not entry.name.isprintable():
                continue
            try:
                if entry.is_file(follow_symlinks=False):
                    yield File(prefix + entry.name, entry.stat(follow_symlinks=False).st_size)
                elif entry.is_dir(follow_symlinks=False) and depth < _DEEPEST:
                    inner = os.open(entry.name, _FOLDER, dir_fd=folder)
                    try:
                        yield from _walk(inner, f"{prefix}{entry.name}/", depth + 1)
                    finally:
                        os.close(inner)
            except OSError:
                continue  # removed or replaced meanwhile, or not readable
