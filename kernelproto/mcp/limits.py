"""Limits of the MCP server, and the exception for requests that exceed them. Pure."""

from __future__ import annotations

import msgspec

from kernelproto.confined_folder import Refused as Refused


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the MCP server; sizes are in bytes, times in seconds.

    Args:
        timeout: the running time of a call that names none.
        max_timeout: the longest running time that a call may name.
        expires: the time without a call after which a conversation ends.
        conversations: the number of conversations.
        kernels: the number of kernels of all conversations.
        waiting_calls: the number of calls that may wait for the running call of a conversation.
        output_bytes: the size of the outputs of a call, above which the code is interrupted.
        text: the characters of text in the result of a call.
        html: the characters of each HTML output in a result; a longer one is saved as a file.
        images: the number of images in a result; others are saved as files.
        image_bytes: the size of each image in a result; a larger one is saved as a file.
        media_bytes: the size of all images and HTML in a result, in JSON; others are saved as
            files.
        file_bytes: the size of an uploaded or saved file.
        read_bytes: the size of the part of a file that one call returns.
        resource_bytes: the size of a file that is read as a resource.
        folder_bytes: the size of a conversation's files, above which no file is uploaded or saved.
        files: the number of a conversation's files, above which no file is uploaded or saved.
        saved_outputs: the number of saved outputs; the oldest are removed.

    Raises:
        ValueError: a limit is 0 or less, or *timeout* exceeds *max_timeout*.
    """

    timeout: float = 60.0
    max_timeout: float = 3600.0
    expires: float = 3600.0
    conversations: int = 50
    kernels: int = 10
    waiting_calls: int = 8
    output_bytes: int = 16 * 1024 * 1024
    text: int = 30_000
    html: int = 30_000
    images: int = 8
    image_bytes: int = 700_000
    media_bytes: int = 940_000  # several clients refuse a result of more than 1 MiB
    file_bytes: int = 20 * 1024 * 1024
    read_bytes: int = 700_000
    resource_bytes: int = 20 * 1024 * 1024
    folder_bytes: int = 500 * 1024 * 1024
    files: int = 2000
    saved_outputs: int = 50

    def __post_init__(self) -> None:
        """Refuse limits with which no call can succeed."""
        for name in self.__struct_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
        if self.timeout > self.max_timeout:
            raise ValueError(
                f"timeout must be at most max_timeout ({self.max_timeout:g} s), not "
                f"{self.timeout:g} s"
            )
