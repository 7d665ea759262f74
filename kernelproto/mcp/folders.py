"""Folders: the files of the conversations, each conversation in a folder of its own.

The code of a conversation runs as the user who started the server, and may replace its files by
symbolic links; see ``confined_folder``.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from contextlib import suppress

from kernelproto.confined_folder import ConfinedFolder, File, NoSuchFile, Part, refusing
from kernelproto.mcp.limits import Limits, Refused

logger = logging.getLogger(__name__)


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
        self._root = os.open(self._path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))

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
        with refusing(conversation):
            with suppress(FileExistsError):
                os.mkdir(conversation, 0o700, dir_fd=self._root)
            with self._open(conversation) as folder:
                if self._owner is not None:
                    folder.give_to(self._owner)

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
        with self._open(conversation) as folder:
            return folder.files(self._limits.files)

    def read(self, conversation: str, name: str, *, offset: int = 0, length: int) -> Part:
        """Read a part of a file; an offset beyond its end gives an empty part.

        Raises:
            Refused: the file cannot be read, or is not a regular file.
        """
        with self._open(conversation) as folder:
            return folder.read(name, offset=offset, length=length)

    def write(self, conversation: str, name: str, data: bytes) -> None:
        """Write a file, and make its subfolders; a file of this name is replaced.

        Raises:
            Refused: the file exceeds a limit, or cannot be written.
        """
        self._check_quota(conversation, name, len(data))
        with self._open(conversation) as folder:
            folder.write(name, data)

    def remove(self, conversation: str, name: str) -> None:
        """Remove a file, if it exists.

        Raises:
            Refused: the file cannot be removed.
        """
        with self._open(conversation) as folder, suppress(NoSuchFile):
            folder.remove(name)

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

    def _open(self, conversation: str) -> ConfinedFolder:
        return ConfinedFolder(conversation, dir_fd=self._root)
