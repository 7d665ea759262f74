"""Message: a header that is decoded at once, and four JSON frames that are kept unchanged.

Content and metadata are decoded on first use. So a message can be routed and forwarded without
being decoded, and unknown fields survive byte for byte.

Specification: "General Message Format".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import msgspec

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire import tolerant_json
from kernelproto.wire.content import CONTENT_TYPES
from kernelproto.wire.large_json import read_in_steps

Frame = bytes | memoryview

PROTOCOL_VERSION = "5.5"

_EMPTY_OBJECT = b"{}"
_NO_PARENT = (_EMPTY_OBJECT, b"null", b"")

_content_readers = {
    name: tolerant_json.strict_readers[kind] for name, kind in CONTENT_TYPES.items()
}
_read_dict = tolerant_json.strict_readers[dict]


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A message header.

    Args:
        msg_id: unique among all messages.
        msg_type: determines the shape of the content.
        session: the client session id; a kernel has another id.
        username: the name of the sender, for display.
        date: ISO 8601; kept as text, because the formats of kernels differ.
        version: the version of the messaging specification.
        subshell_id: the subshell that serves a shell request.
    """

    msg_id: str
    msg_type: str
    session: str = ""
    username: str = ""
    date: str = ""
    version: str = ""
    subshell_id: str | None = None


# Without gc: a message cannot be part of a reference cycle, and programs keep many messages.
class Message(msgspec.Struct, eq=False, gc=False):
    """One message of the Jupyter messaging specification; immutable.

    Args:
        header: the header, decoded.
        parent_header: the header of the message that caused this one; None without a parent.
        parts: header, parent_header, metadata and content as JSON, then the buffers.
        identities: the routing frames before the delimiter; on iopub the topic, if any.
    """

    header: Header
    parent_header: Header | None
    parts: tuple[Frame, ...]
    identities: Sequence[Frame] = ()
    _content: Any = None
    _metadata: dict[str, Any] | None = None
    _fault: str = ""
    _size: int = 0

    @classmethod
    def build(
        cls,
        header: Header,
        content: msgspec.Struct | Mapping[str, Any],
        *,
        parent: Message | None = None,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
    ) -> Message:
        """Make a message to send.

        Args:
            header: the header.
            content: a Struct of ``kernelproto.wire.content``, or a mapping.
            parent: the message that this one answers; the parent's header is quoted byte for byte.
            metadata: any JSON object; empty by default.
            buffers: binary frames that follow the content.

        Raises:
            LocalProtocolError: the content or the metadata cannot be written as JSON.
        """
        return cls(
            header,
            None if parent is None else parent.header,
            (
                tolerant_json.encode(header),
                _EMPTY_OBJECT if parent is None else parent.raw_header,
                tolerant_json.encode(metadata) if metadata else _EMPTY_OBJECT,
                tolerant_json.encode(content),
                *buffers,
            ),
        )

    @property
    def msg_type(self) -> str:
        """The header's msg_type."""
        return self.header.msg_type

    @property
    def msg_id(self) -> str:
        """The header's msg_id."""
        return self.header.msg_id

    @property
    def size(self) -> int:
        """The bytes of all ``parts``."""
        if not self._size:
            self._size = sum(map(len, self.parts))
        return self._size

    @property
    def content(self) -> Any:
        """The content: a Struct for the specification's message types, a dict for any other.

        Raises:
            MalformedMessage: the content is not a JSON object of that shape.
        """
        # An empty frame does not count as an empty object. The signature covers only the joined
        # frames: moving an error's bytes into the metadata would turn the error into a success.
        if self._content is None:
            if self._fault:
                raise MalformedMessage(self._fault)
            msg_type, raw_content = self.header.msg_type, self.parts[3]
            try:
                self._content = _content_readers.get(msg_type, _read_dict)(raw_content)
            except tolerant_json.UNREADABLE:
                kind = CONTENT_TYPES.get(msg_type, dict)
                self._content = tolerant_json.decode_tolerantly(raw_content, kind)
        return self._content

    @property
    def is_read(self) -> bool:
        """Whether ``content`` returns or raises at once."""
        return self._content is not None or bool(self._fault)

    def read_content(self) -> Iterator[None]:
        """Read the content in steps, for a large one; ``content`` then returns or raises at once.

        Iterate to the end, and let other code run after each item.
        """
        kind = CONTENT_TYPES.get(self.header.msg_type, dict)
        try:
            self._content = yield from read_in_steps(self.parts[3], kind)
        except MalformedMessage as error:
            self._fault = str(error)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata; null and an empty frame count as empty.

        Raises:
            MalformedMessage: the metadata is not a JSON object.
        """
        if self._metadata is None:
            self._metadata = tolerant_json.decode(self.parts[2] or _EMPTY_OBJECT, dict)
        return self._metadata

    @property
    def buffers(self) -> Sequence[Frame]:
        """The binary frames, not copied; those of 64 KiB and more arrive as memoryviews."""
        return self.parts[4:]

    @property
    def raw_header(self) -> Frame:
        """The header as JSON, exactly as received or to be sent."""
        return self.parts[0]

    @property
    def raw_parent_header(self) -> Frame:
        """The parent header as JSON, exactly as received or to be sent."""
        return self.parts[1]

    @property
    def raw_metadata(self) -> Frame:
        """The metadata as JSON, exactly as received or to be sent."""
        return self.parts[2]

    @property
    def raw_content(self) -> Frame:
        """The content as JSON, exactly as received or to be sent."""
        return self.parts[3]

    def __repr__(self) -> str:
        parent = self.parent_header.msg_id if self.parent_header else None
        return f"<Message {self.msg_type} {self.msg_id} parent={parent}>"


def with_version(message: Message) -> Message:
    """Return the message with a version in the header.

    A message without a version gets PROTOCOL_VERSION, because kernels would assume version 4. All
    other fields of the header stay.

    Raises:
        LocalProtocolError: the header cannot be written as JSON again.
    """
    if message.header.version:
        return message
    header = cast("dict[str, Any]", tolerant_json.decode(message.raw_header, dict))
    return Message(
        msgspec.structs.replace(message.header, version=PROTOCOL_VERSION),
        message.parent_header,
        (tolerant_json.encode({**header, "version": PROTOCOL_VERSION}), *message.parts[1:]),
        message.identities,
    )


def read_parent_header(raw: Frame) -> Header | None:
    """Return the parent header in a frame; None if the message has no parent.

    Raises:
        MalformedMessage: the frame is neither a header nor empty.
    """
    if raw in _NO_PARENT:
        return None
    quoted = tolerant_json.decode(raw, _Quoted)
    return Header(**msgspec.structs.asdict(quoted)) if quoted.msg_id else None


class _Quoted(Header, frozen=True, kw_only=True):
    """A parent header; kernels may leave fields out, but the msg_id identifies the request."""

    msg_id: str = ""
    msg_type: str = ""


def timestamp(moment: datetime) -> str:
    """Return a time in the format of headers: ISO 8601 with the time zone."""
    # Three times as fast as isoformat(), which took a fifth of the time to write a message.
    return cast("str", msgspec.to_builtins(moment))


class MessageFactory:
    """Makes the messages of one client session.

    Args:
        session: the client session id.
        username: the name of the sender, for display.
        new_id: returns a msg_id that was never used before.
        now: returns the current time in ISO 8601 with a time zone.
    """

    def __init__(
        self,
        *,
        session: str,
        username: str,
        new_id: Callable[[], str],
        now: Callable[[], str],
    ) -> None:
        self.session = session
        self._username = username
        self._new_id = new_id
        self._now = now

    def message(
        self,
        msg_type: str,
        content: msgspec.Struct | Mapping[str, Any],
        *,
        parent: Message | None = None,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
        subshell_id: str | None = None,
    ) -> Message:
        """Make a message with a new header; arguments and exceptions as in ``Message.build``."""
        header = Header(
            msg_id=self._new_id(),
            msg_type=msg_type,
            session=self.session,
            username=self._username,
            date=self._now(),
            version=PROTOCOL_VERSION,
            subshell_id=subshell_id,
        )
        return Message.build(header, content, parent=parent, metadata=metadata, buffers=buffers)
