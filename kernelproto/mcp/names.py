"""Names of conversations and of their files, and the URIs of these files. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from kernelproto.confined_folder import Refused, split_name

# Clients may parse a URI like file://CONVERSATION/NAME as browsers do: they turn the host into
# lower case, read digits as an IP address, and remove "localhost".
CONVERSATION = r"^[a-z][a-z0-9_-]{0,62}$"

URI_TEMPLATE = "file://{conversation}/{name}"

_CONVERSATION = re.compile(CONVERSATION)
_URI = re.compile(r"file://([^/?#]+)/([^?#]+)")


def check_conversation(name: str) -> str:
    """Return the name of a conversation.

    Raises:
        Refused: the name is not valid.
    """
    if _CONVERSATION.fullmatch(name) is None or name == "localhost":
        raise Refused(
            f"{name[:80]!r} is not a name of a conversation: use 1 to 63 characters of a-z, 0-9, _ "
            "and -, beginning with a letter"
        )
    return name


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
