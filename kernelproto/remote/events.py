"""The events of an execution, one JSON object a line: outputs -> lines, lines -> outputs. Pure.

The server sends an output without decoding the values, so a large output costs the server little.
The names of the events and of their fields are those of e2b's code interpreter where that has them.

A MIME bundle becomes fields with short names, such as ``png``; the other types are in ``extra``. A
bundle with very many keys is not examined: then all types are in ``extra``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast

import msgspec
from msgspec import Raw

from kernelproto.exceptions import LocalProtocolError, MalformedMessage
from kernelproto.wire import tolerant_json
from kernelproto.wire.content import content_type
from kernelproto.wire.message import Frame
from kernelproto.wire.refusals import RefusedOutput

MIME_FIELDS = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "pdf": "application/pdf",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
}
_FIELDS = {mime_type: field for field, mime_type in MIME_FIELDS.items()}

# A larger output is refused: the server passes on a nested one of this size in about 0.1 s.
MOST_OUTPUT_BYTES = 32 * 2**20

# An output that is not valid JSON takes much longer.
_MOST_INVALID_BYTES = 2**20

# A bundle with more colons may have so many keys that the examination takes too long.
_MOST_COLONS = 50_000

Status: TypeAlias = Literal["ok", "error", "aborted", "failed"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """One line of the stream of an execution, of the kind ``type``."""


class StreamEvent(Event, frozen=True):
    """Text that the code has written.

    Args:
        text: the text.
        timestamp: when the server received the event, in nanoseconds since 1970.
    """

    text: str
    timestamp: int = 0


class Stdout(StreamEvent, frozen=True, tag="stdout"):
    """Text on standard output."""


class Stderr(StreamEvent, frozen=True, tag="stderr"):
    """Text on standard error."""


class BundleEvent(Event, frozen=True):
    """An object in several formats.

    Args:
        text: the data of type text/plain.
        html: text/html.
        markdown: text/markdown.
        svg: image/svg+xml.
        png: image/png, in base64.
        jpeg: image/jpeg, in base64.
        pdf: application/pdf, in base64.
        latex: text/latex.
        json: application/json.
        javascript: application/javascript.
        extra: the data of all other types, by MIME type.
        metadata: metadata by MIME type.
        transient: data that a notebook does not keep, such as ``display_id``.
    """

    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    svg: str | None = None
    png: str | None = None
    jpeg: str | None = None
    pdf: str | None = None
    latex: str | None = None
    json: Any = None
    javascript: str | None = None
    extra: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    transient: dict[str, Any] | None = None


class Result(BundleEvent, frozen=True, tag="result"):
    """A displayed object, or the value of the last expression.

    Args:
        is_main_result: whether this is the value of the last expression.
        execution_count: the kernel's number for the execution, for such a value.
    """

    is_main_result: bool = False
    execution_count: int | None = None


class DisplayUpdate(BundleEvent, frozen=True, tag="display_update"):
    """New data for the displays with the same ``transient.display_id``."""


class ClearOutput(Event, frozen=True, tag="clear_output"):
    """Remove the outputs so far.

    Args:
        wait: whether to remove them only when the next output arrives.
    """

    wait: bool = False


class Error(Event, frozen=True, tag="error"):
    """An exception in the code.

    Args:
        name: the name.
        value: the text.
        traceback: the traceback, one entry a frame.
    """

    name: str = ""
    value: str = ""
    traceback: list[str] = []


class NumberOfExecutions(Event, frozen=True, tag="number_of_executions"):
    """The kernel's number for the execution, after its end.

    Args:
        execution_count: the number.
    """

    execution_count: int


class KeepAlive(Event, frozen=True, tag="keepalive"):
    """Nothing has happened for a while."""


class OutputsLost(Event, frozen=True, tag="outputs_lost"):
    """Outputs are missing here, because the client has read too slowly or came too late.

    Args:
        count: the number of missing events.
    """

    count: int


class Disconnected(Event, frozen=True, tag="disconnected"):
    """The server ends the stream before the execution has ended.

    Args:
        message: the reason.
    """

    message: str


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reason why the server cannot tell how the code ended.

    Args:
        type: the name of an exception of kernelproto.
        message: the text.
        details: the attributes.
    """

    type: str
    message: str
    details: dict[str, str | int | float | bool | None] = {}


class EndOfExecution(Event, frozen=True, tag="end_of_execution"):
    """The result of an execution; always the last line.

    Args:
        status: "ok"; "error", also for interrupted code; "aborted" if the kernel did not run the
            code because an earlier execution failed; or "failed", see *failure*.
        execution_count: the kernel's number for the execution.
        outputs_complete: whether the stream has all outputs.
        error: the exception that the code raised.
        failure: the reason for the status "failed".
    """

    status: Status
    execution_count: int | None = None
    outputs_complete: bool = True
    error: Error | None = None
    failure: Failure | None = None


AnyEvent: TypeAlias = (
    Stdout
    | Stderr
    | Result
    | DisplayUpdate
    | ClearOutput
    | Error
    | NumberOfExecutions
    | KeepAlive
    | OutputsLost
    | Disconnected
    | EndOfExecution
)


class _Stream(msgspec.Struct):
    name: str = "stdout"
    text: Raw = Raw(b'""')


class _Bundle(msgspec.Struct):
    data: Raw = Raw(b"{}")
    metadata: Raw = Raw(b"{}")
    transient: Raw = Raw(b"{}")
    execution_count: int | None = None


class _Error(msgspec.Struct):
    ename: str = ""
    evalue: str = ""
    traceback: Raw = Raw(b"[]")


class _Clear(msgspec.Struct):
    wait: bool = False


_KINDS: dict[str, type[Any]] = {"stream": _Stream, "error": _Error, "clear_output": _Clear}
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (_Stream, _Bundle, _Error, _Clear)
}
_data_decoder = msgspec.json.Decoder(dict[str, Raw])
_encoder = msgspec.json.Encoder()


def encode_event(event: Event) -> bytes:
    """Return an event as a line."""
    return _encode_tolerantly(event) + b"\n"


def encode_output(msg_type: str, content: Frame, timestamp: int) -> bytes:
    """Return an output of a kernel as a line.

    Args:
        msg_type: the type of the output's message.
        content: the content of the message, as JSON.
        timestamp: the time, in nanoseconds since 1970.

    Raises:
        MalformedMessage: the content cannot be read, or is too large.
    """
    if len(content) > MOST_OUTPUT_BYTES:
        raise MalformedMessage(
            f"has {len(content)} bytes; at most {MOST_OUTPUT_BYTES} are allowed: write large "
            "outputs to a file"
        )
    kind = _KINDS.get(msg_type, _Bundle)
    try:
        event = _event(msg_type, _decoders[kind].decode(content), timestamp)
        line = _encoder.encode(event)
        # Some kernels write JSON in several lines.
        return (msgspec.json.format(line, indent=-1) if b"\n" in line else line) + b"\n"
    except (msgspec.MsgspecError, RecursionError):
        if len(content) > _MOST_INVALID_BYTES:
            raise MalformedMessage("is not valid JSON, and too large to be repaired") from None
    repaired = _encode_tolerantly(tolerant_json.decode(content, content_type(msg_type)))
    try:
        event = _event(msg_type, _decoders[kind].decode(repaired), timestamp)
    except msgspec.MsgspecError as error:
        raise MalformedMessage(f"cannot be read: {error}") from None
    return encode_event(event)


def encode_refusal(msg_type: str, error: MalformedMessage, timestamp: int) -> bytes:
    """Return the line in place of an output that was refused with *error*."""
    return encode_event(Stderr(RefusedOutput.of(msg_type, error).text, timestamp))


def _encode_tolerantly(value: msgspec.Struct) -> bytes:
    """Return a Struct as JSON; lone surrogates become question marks."""
    try:
        return tolerant_json.encode(value)
    except LocalProtocolError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        return tolerant_json.encode(
            tolerant_json.decode(text.encode(errors="replace"), dict[str, Any])
        )


def _event(msg_type: str, content: Any, timestamp: int) -> Event:
    """Return an event whose large fields are JSON, which the encoder copies."""
    match content:
        case _Stream(name=name, text=text):
            return (Stderr if name == "stderr" else Stdout)(cast("str", text), timestamp)
        case _Error(ename=name, evalue=value, traceback=traceback):
            return Error(name, value, cast("list[str]", traceback))
        case _Clear(wait=wait):
            return ClearOutput(wait)
        case _:
            return _bundle_event(msg_type, content)


def _bundle_event(msg_type: str, content: _Bundle) -> Event:
    fields: dict[str, Any] = {}
    if bytes(content.data).count(b":") > _MOST_COLONS:
        fields["extra"] = content.data
    else:
        data = _data_decoder.decode(content.data)
        extra = {name: value for name, value in data.items() if name not in _FIELDS}
        fields = {_FIELDS[name]: value for name, value in data.items() if name in _FIELDS}
        if extra:
            fields["extra"] = extra
    for name in ("metadata", "transient"):
        if bytes(value := getattr(content, name)) not in (b"{}", b"null"):
            fields[name] = value
    if msg_type == "update_display_data":
        return DisplayUpdate(**fields)
    if msg_type == "execute_result":
        return Result(**fields, is_main_result=True, execution_count=content.execution_count)
    return Result(**fields)


def decode_line(line: bytes) -> dict[str, Any]:
    """Return an event as a mapping.

    Raises:
        MalformedMessage: the line is not an event.
    """
    event = tolerant_json.decode(line, dict[str, Any])
    if not isinstance(event.get("type"), str):
        raise MalformedMessage("the event has no type")
    return event


def output_of(event: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the type and the content of the kernel's message; None if the event is no output."""
    match event:
        case {"type": "stdout" | "stderr" as name}:
            return "stream", {"name": name, "text": event.get("text", "")}
        case {"type": "result", "is_main_result": True}:
            count = event.get("execution_count")
            return "execute_result", {**_content(event), "execution_count": count}
        case {"type": "result"}:
            return "display_data", _content(event)
        case {"type": "display_update"}:
            return "update_display_data", _content(event)
        case {"type": "clear_output"}:
            return "clear_output", {"wait": event.get("wait", False)}
        case {"type": "error"}:
            return "error", error_content(event)
        case _:
            return None


def error_content(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the kernel's message for an error."""
    return {
        "ename": event.get("name", ""),
        "evalue": event.get("value", ""),
        "traceback": event.get("traceback", []),
    }


def _content(event: Mapping[str, Any]) -> dict[str, Any]:
    data = {mime: event[name] for name, mime in MIME_FIELDS.items() if name in event}
    return {
        "data": data | (event.get("extra") or {}),
        "metadata": event.get("metadata") or {},
        "transient": event.get("transient") or {},
    }
