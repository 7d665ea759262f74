"""Refusals: the traces of messages that the client could not read.

The policy. A RefusedOutput replaces a refused output, and the result of the execution is marked as
incomplete. If the headers of a message cannot be read, a stream message with the same parent
replaces the message, so observers see the loss as well.
"""

from __future__ import annotations

from typing import get_args

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire import tolerant_json
from kernelproto.wire.content import Output, Stream, message_type
from kernelproto.wire.message import Header, Message

# A kernel chooses both texts.
_MOST_TYPE_CHARACTERS = 50
_MOST_REASON_CHARACTERS = 300

OUTPUT_TYPES = frozenset(message_type(kind) for kind in get_args(Output))


class RefusedOutput(Stream, frozen=True):
    """A line on standard error in place of an output that the client could not read.

    Attributes:
        msg_type: the type of the refused message; empty if the header could not be read.
        reason: the reason for the refusal.
    """

    msg_type: str = ""
    reason: str = ""

    @classmethod
    def of(cls, msg_type: str, error: MalformedMessage) -> RefusedOutput:
        """Return the trace of a message of type *msg_type* that was refused with *error*."""
        msg_type = msg_type[:_MOST_TYPE_CHARACTERS]
        reason = str(error)[:_MOST_REASON_CHARACTERS]
        text = f"[an output is missing here: the kernel's {msg_type or 'message'} {reason}]\n"
        return cls("stderr", text, msg_type, reason)


def stand_in(
    refused: Message, msg_type: str, header: Header, error: MalformedMessage
) -> Message | None:
    """Return the message to deliver in place of a refused one on iopub.

    Args:
        refused: the refused message, from ``Codec.salvage``.
        msg_type: the type in version 5 of the specification; empty if unknown.
        header: the header of a new stream message.
        error: the reason for the refusal.

    Returns:
        A stream message with the same parent; None if the refused message was not an output.
    """
    if msg_type and msg_type not in OUTPUT_TYPES:
        return None
    output = RefusedOutput.of(msg_type, error)
    stream = Stream(output.name, output.text)
    parts = (
        tolerant_json.encode(header),
        refused.raw_parent_header,
        b"{}",
        tolerant_json.encode(stream),
    )
    return Message(header, refused.parent_header, parts, (), output)
