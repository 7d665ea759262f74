"""A folder whose files are opened without leaving the folder; all functions block.

Theory of operation
-------------------
Code that runs in a folder can replace any part of the folder by a symbolic link at any time. So no
path is checked and then opened. Each part of a name is opened relative to the descriptor of the
folder before, and never through a symbolic link. A file is written under a temporary name and
renamed, so a reader never sees an incomplete file, and a link in its place is replaced and not
followed.

This protects the files outside from the names in requests, but does not confine the code.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple, Self

from kernelproto.file_owner import Owner, rights_of
from kernelproto.folder_removal import remove_folder

_CLOSED_ON_EXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _CLOSED_ON_EXEC
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _CLOSED_ON_EXEC  # a pipe must not block
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOSED_ON_EXEC

# Windows cannot open a file relative to a folder.
HAS_CONFINED_FOLDERS = os.open in os.supports_dir_fd

_TEMPORARY = ".kernelproto-"

_LONGEST_NAME = 1000
_LONGEST_PART = 255
_MOST_PARTS = 16

MOST_ENTRIES = 100_000


class Refused(Exception):
    """A request is refused, for the reason in the text."""


class NoSuchFile(Refused):
    """A file or folder does not exist."""


class File(NamedTuple):
    """A file: the name with subfolders, and the size in bytes."""

    name: str
    size: int


class Part(NamedTuple):
    """A part of a file, and the size of the whole file in bytes."""

    data: bytes
    size: int


class ConfinedFolder:
    """An open folder.

    Args:
        path: the path. The folder itself is opened with the rights of this process.
        owner: the user with whose rights all files below are opened; None means the user of this
            process.

    Raises:
        Refused: the folder cannot be opened, or is a symbolic link.
    """

    def __init__(self, path: str, *, owner: Owner | None = None) -> None:
        self._owner = owner
        with refusing(path):
            self._descriptor = os.open(path, _FOLDER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder."""
        os.close(self._descriptor)

    def give_to(self, user: int) -> None:
        """Give the folder to a user, by number; new files in it belong to this user as well.

        Raises:
            OSError: this process is not root.
        """
        os.fchown(self._descriptor, user, user)

    def files(self, most: int) -> tuple[list[File], bool]:
        """Return at most so many files, by name, and whether there may be more.

        Code can make very many links, folders or names that are left out. So at most MOST_ENTRIES
        entries of all folders are examined.
        """
        found: list[File] = []
        with rights_of(self._owner), closing(_walk(self._descriptor)) as entries:
            for number, entry in enumerate(entries):
                if number == MOST_ENTRIES or (entry is not None and len(found) == most):
                    return sorted(found), True
                if entry is not None:
                    found.append(entry)
        return sorted(found), False

    def folder(self, *parts: str, make: bool = False) -> ConfinedFolder:
        """Open a subfolder, which stays open when this one is closed; without a name, this one.

        Args:
            parts: the names of the nested folders.
            make: whether to make the folders that do not exist.

        Raises:
            Refused: the folder cannot be opened; NoSuchFile without such a folder.
        """
        with self._opened(parts, make=make) as descriptor:
            found = object.__new__(ConfinedFolder)
            found._owner = self._owner
            found._descriptor = os.dup(descriptor)
            return found

    def remove_folder(self, *parts: str) -> None:
        """Remove a subfolder and everything in it.

        Raises:
            Refused: the folder cannot be removed; NoSuchFile without such a folder.
        """
        *outer, last = parts
        with self._opened(outer) as descriptor, refusing(last):
            remove_folder(last, parent=descriptor)

    def read(self, name: str, *, offset: int = 0, length: int) -> Part:
        """Read a part of a file; an offset beyond the end gives an empty part.

        Raises:
            Refused: the file cannot be read, or is not a regular file.
        """
        file = self.open_file(name)
        try:
            with refusing(name):
                return Part(file.read(offset, length), file.size)
        finally:
            file.close()

    def open_file(self, name: str) -> OpenFile:
        """Open a file for reading.

        Raises:
            Refused: the file cannot be read, or is not a regular file; NoSuchFile without such a
                file.
        """
        *folders, last = split_name(name)
        with self._opened(folders) as folder, refusing(name):
            file = OpenFile(os.open(last, _READ, dir_fd=folder))
            if not file.is_regular:
                file.close()
                raise Refused(f"{name!r} is not a regular file")
            return file

    def write(self, name: str, data: bytes) -> None:
        """Write a file, and make missing subfolders; a file of this name is replaced.

        Raises:
            Refused: the file cannot be written.
        """
        file = self.new_file(name)
        try:
            file.write(data)
            file.commit()
        finally:
            file.abort()

    def new_file(self, name: str) -> NewFile:
        """Begin to write a file, and make missing subfolders.

        Raises:
            Refused: the file cannot be written.
        """
        *folders, last = split_name(name)
        with self._opened(folders, make=True) as folder, refusing(name):
            return NewFile(folder, name, last, self._owner)

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            Refused: the file cannot be removed; NoSuchFile without such a file.
        """
        *folders, last = split_name(name)
        with self._opened(folders) as folder, refusing(name):
            os.unlink(last, dir_fd=folder)

    @contextmanager
    def _opened(self, folders: Sequence[str], *, make: bool = False) -> Generator[int]:
        """Open a subfolder for the block, which has the rights of the owner."""
        with refusing("/".join(folders)), rights_of(self._owner):
            descriptor = os.dup(self._descriptor)
            try:
                for part in folders:
                    made = make and _make(part, descriptor)
                    inner = os.open(part, _FOLDER, dir_fd=descriptor)
                    if made:
                        _give_to_owner(inner, descriptor)
                    os.close(descriptor)
                    descriptor = inner
                yield descriptor
            finally:
                os.close(descriptor)


class OpenFile:
    """A file that is open for reading.

    Args:
        descriptor: the descriptor.

    Attributes:
        is_regular: whether this is a regular file.
        size: the size in bytes at the time of opening.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self.is_regular = stat.S_ISREG(status.st_mode)
        self.size = status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return a part, which is shorter at the end of the file.

        Raises:
            OSError: the file cannot be read.
        """
        with os.fdopen(self._descriptor, "rb", closefd=False) as file:
            file.seek(offset)
            return file.read(length)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class NewFile:
    """A file that is being written; ``commit`` gives the name, ``abort`` removes the file.

    Args:
        folder: the descriptor of the folder.
        name: the name, for errors.
        last: the name in the folder.
        owner: the user with whose rights the file is written; None for that of this process.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: int, name: str, last: str, owner: Owner | None) -> None:
        self._name = name
        self._last = last
        self._owner = owner
        self._temporary = _TEMPORARY + uuid.uuid4().hex
        self._file = os.fdopen(os.open(self._temporary, _CREATE, 0o600, dir_fd=folder), "wb")
        _give_to_owner(self._file.fileno(), folder)
        self._folder = os.dup(folder)
        self._ended = False

    def write(self, data: bytes | bytearray) -> None:
        """Write data at the end of the file.

        Raises:
            Refused: the data cannot be written.
        """
        with refusing(self._name):
            self._file.write(data)

    def commit(self) -> None:
        """Rename the file to its final name; a file of this name is replaced.

        Raises:
            Refused: the file cannot be written, and is removed.
        """
        try:
            with refusing(self._name), rights_of(self._owner):
                self._file.close()
                folder = self._folder
                os.rename(self._temporary, self._last, src_dir_fd=folder, dst_dir_fd=folder)
                self._end()
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove the file, unless committed."""
        if self._ended:
            return
        with suppress(OSError):
            self._file.close()
        with suppress(OSError), rights_of(self._owner):
            os.unlink(self._temporary, dir_fd=self._folder)
        self._end()

    def _end(self) -> None:
        self._ended = True
        os.close(self._folder)


def split_name(name: str) -> list[str]:
    """Return the parts of a file's name: the subfolders, and last the file.

    Raises:
        Refused: the name leaves the folder, or is too long.
    """
    parts = name.split("/")
    fault = None
    if not name:
        fault = "it is empty"
    elif name.startswith("/"):
        fault = "it must be relative to the folder"
    elif ".." in parts:
        fault = 'it must not contain ".."'
    elif "" in parts or "." in parts:
        fault = 'it has an empty part or "."'
    elif not all(character.isprintable() for character in name) or "\\" in name:
        fault = "it contains a backslash, or a character that cannot be printed"
    elif len(name) > _LONGEST_NAME or len(parts) > _MOST_PARTS:
        fault = f"it has more than {_LONGEST_NAME} characters or {_MOST_PARTS} parts"
    elif any(len(part.encode()) > _LONGEST_PART for part in parts):
        fault = f"a part is longer than {_LONGEST_PART} bytes"
    if fault is not None:
        raise Refused(f"{name[:80]!r} is not a name of a file: {fault}")
    return parts


def _make(name: str, folder: int) -> bool:
    """Make a subfolder; return whether the subfolder is new."""
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _give_to_owner(descriptor: int, folder: int) -> None:
    """Give a new file or folder to the owner of the parent folder, if this process is root."""
    owner = os.fstat(folder)
    if os.geteuid() == 0 and owner.st_uid != 0 and os.fstat(descriptor).st_uid == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


@contextmanager
def refusing(name: str) -> Generator[None]:
    """Raise Refused, with the name of the file, for an OSError of the block."""
    try:
        yield
    except FileNotFoundError:
        raise NoSuchFile(f"{name!r} does not exist") from None
    except OSError as error:
        link = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
        reason = (
            "it is not what the name says, or a symbolic link" if link else error.strerror or error
        )
        raise Refused(f"{name!r} cannot be used: {reason}") from None


def _walk(folder: int, prefix: str = "", depth: int = 0) -> Generator[File | None]:
    """Yield the regular files below an open folder, and None for each entry that is left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY) or not entry.name.isprintable():
                yield None
                continue
            try:
                if entry.is_file(follow_symlinks=False):
                    yield File(prefix + entry.name, entry.stat(follow_symlinks=False).st_size)
                    continue
                yield None
                if entry.is_dir(follow_symlinks=False) and depth < _MOST_PARTS:
                    inner = os.open(entry.name, _FOLDER, dir_fd=folder)
                    try:
                        yield from _walk(inner, f"{prefix}{entry.name}/", depth + 1)
                    finally:
                        os.close(inner)
            except OSError:
                continue  # removed or replaced meanwhile, or not readable
