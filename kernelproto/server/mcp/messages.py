"""A bound on the work for a client's message. Pure.

The package ``mcp`` decodes and validates messages in the event loop. That takes up to a second for
a megabyte of nested values, and a few milliseconds for a long string. Only calls of tools need to
be long, and only because of a string: code, or the content of a file.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

# Any message of this size is handled in a few milliseconds.
_SHORT_BYTES = 64 * 1024

_MOST_ARGUMENTS = 100


class _Params(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: Annotated[
        dict[str, str | int | float | bool | None], msgspec.Meta(max_length=_MOST_ARGUMENTS)
    ] = {}
    meta: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name="_meta")


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    jsonrpc: str
    id: int | str
    method: str
    params: _Params


def message_fault(body: bytes) -> str | None:
    """Return why a message is refused; None if its work is bounded."""
    if len(body) <= _SHORT_BYTES:
        return None
    try:
        call = msgspec.json.decode(body, type=_Call)
    except (ValueError, RecursionError):
        call = None
    if call is not None and len(bytes(call.params.meta)) <= _SHORT_BYTES:
        return None
    return (
        f"a message of more than {_SHORT_BYTES} bytes must be a call of a tool, with few arguments "
        "that are strings, numbers or booleans"
    )
