"""Notices: messages that a server sends on behalf of a kernel."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from kernelproto.wire.content import Content, message_type
from kernelproto.wire.message import PROTOCOL_VERSION, Header, Message


def build_notice(content: Content, parent: Message | None = None) -> Message:
    """Return a message that the server sends on behalf of the kernel."""
    return Message.build(new_header(message_type(type(content))), content, parent=parent)


def beside(output: Message, notice: Message) -> Message:
    """Return a notice with the parent of an output, so a notebook shows both in the same cell."""
    header, _, *rest = notice.parts
    return Message(notice.header, output.parent_header, (header, output.raw_parent_header, *rest))


def new_header(msg_type: str) -> Header:
    """Return the header of a message that the server sends on behalf of the kernel."""
    return Header(
        msg_id=uuid.uuid4().hex,
        msg_type=msg_type,
        session=uuid.uuid4().hex,
        username="kernel",
        date=datetime.now(UTC).isoformat(),
        version=PROTOCOL_VERSION,
    )
