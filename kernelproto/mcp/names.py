"""Names of conversations and of their files, and the URIs of these files. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from kernelproto.mcp.limits import Refused

# Clients may parse a URI like file://CONVERSATION/NAME as browsers do: they turn the host into
# lower case, read digits as an IP address, and remove "localhost".
CONVERSATION = r"^[a-z][a-z0-9_-]{0,62}$"

URI_TEMPLATE = "file://{conversation}/{name}"

_CONVERSATION = re.compile(CONVERSATION)
_URI = re.compile(r"file://([^/?#]+)/([^?#]+)")
_LONGEST_NAME = 1000
_LONGEST_PART = 255
_MOST_PARTS = 16


def check_conversation(name: str) -> str:
    """Return the name of a conversation.

    Raises:
        Refused: it is not a valid name.
    """
    if _CONVERSATION.fullmatch(name) is None or name == "localhost":
        raise Refused(
            f"{name[:80]!r} is not a name of a conversation: use 1 to 63 characters of a-z, 0-9, _ "
            "and -, beginning with a letter"
        )
    return name


def split_name(name: str) -> list[str]:
    """Return the parts of a file's name: its subfolders, and last the file.

    Raises:
        Refused: the name leaves the folder of the conversation, or is too long.
    """
    parts = name.split("/")
    fault = None
    if not name:
        fault = "it is empty"
    elif name.startswith("/"):
        fault = "it must be relative to the folder of the conversation"
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


def file_uri(conversation: str, name: str) -> str:
    """Return the URI of a file."""
    return f"file://{conversation}/{quote(name)}"


def parse_uri(uri: str) -> tuple[str, str]:
    """Return the conversation and the name of the file that a URI names.

    Raises:
        Refused: the URI has another form.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        raise Refused(f"{uri[:200]!r} is not a URI of a file: use {URI_TEMPLATE}")
    name = unquote(found[2])
    split_name(name)
    return check_conversation(found[1]), name
