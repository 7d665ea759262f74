"""Folders: the files of the conversations, each conversation in a folder of its own.

The code of a conversation may replace its files by symbolic links; see ``confined_folder``.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress

from kernelproto.confined_folder import ConfinedFolder, File, NoSuchFile, Part
from kernelproto.file_owner import Owner
from kernelproto.mcp.limits import Limits, Refused

logger = logging.getLogger(__name__)


class Folders:
    """The folders of all conversations in one root folder; the methods block.

    Args:
        root: the path of the root folder, which exists.
        limits: the limits for files.
        owner: the number of the user that owns the folder of each conversation; None means the user
            of this program.
        inside: the folders below the root that have the folders of the conversations; they are made
            if they do not exist.
        rights: the user whose rights open and make everything below the root, such as the owner of
            a home folder; None means the user of this program.

    Raises:
        Refused: the root cannot be opened.
    """

    def __init__(
        self,
        root: str,
        limits: Limits,
        *,
        owner: int | None = None,
        inside: tuple[str, ...] = (),
        rights: Owner | None = None,
    ) -> None:
        self._path = os.path.realpath(root)
        self._inside = inside
        self._limits = limits
        self._owner = owner
        self._root = ConfinedFolder(self._path, owner=rights)

    def close(self) -> None:
        """Close the root folder."""
        self._root.close()

    def path(self, conversation: str) -> str:
        """Return the path of a conversation's folder."""
        return os.path.join(self._path, *self._inside, conversation)

    def make(self, conversation: str) -> None:
        """Make a conversation's folder, if there is none.

        Raises:
            Refused: the folder cannot be made or opened.
        """
        with self._root.folder(*self._inside, conversation, make=True) as folder:
            if self._owner is not None:
                folder.give_to(self._owner)

    def exists(self, conversation: str) -> bool:
        """Return whether a conversation has a folder."""
        try:
            self._open(conversation).close()
        except Refused:
            return False
        return True

    def files(self, conversation: str) -> tuple[list[File], bool]:
        """Return a conversation's files by name, and whether there are more than the limit.

        Raises:
            Refused: the conversation has no folder.
        """
        with self._open(conversation) as folder:
            return folder.files(self._limits.files)

    def read(self, conversation: str, name: str, *, offset: int = 0, length: int) -> Part:
        """Read a part of a file; an offset beyond the end gives an empty part.

        Raises:
            Refused: the file cannot be read, or is not a regular file.
        """
        with self._open(conversation) as folder:
            return folder.read(name, offset=offset, length=length)

    def write(self, conversation: str, name: str, data: bytes) -> None:
        """Write a file, and make missing subfolders; a file of this name is replaced.

        Raises:
            Refused: the file exceeds a limit, or cannot be written.
        """
        self._check_quota(conversation, name, len(data))
        with self._open(conversation) as folder:
            folder.write(name, data)

    def remove(self, conversation: str, name: str) -> None:
        """Remove a file, if the file exists.

        Raises:
            Refused: the file cannot be removed.
        """
        with self._open(conversation) as folder, suppress(NoSuchFile):
            folder.remove(name)

    def clear(self, conversation: str) -> None:
        """Remove a conversation's folder with all files; log a failure."""
        try:
            self._root.remove_folder(*self._inside, conversation)
        except NoSuchFile:
            pass
        except Refused as refusal:
            logger.warning("cannot remove the files of conversation %s: %s", conversation, refusal)

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
        return self._root.folder(*self._inside, conversation)
