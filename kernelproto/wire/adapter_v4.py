"""Kernels that speak version 4 of the messaging specification, for clients that speak version 5.

Version 5.0 renamed messages and fields and reshaped others. The adapter translates requests to
version 4, and all messages from the kernel to version 5. Messages that are the same in both
versions, unknown messages and unreadable messages pass unchanged.

Specification: "Changelog", 4.1 and 5.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, cast

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire import tolerant_json
from kernelproto.wire.message import Frame, Header, Message

_Fields: TypeAlias = dict[str, Any]
_Adapt: TypeAlias = Callable[[_Fields], None]

# The adapter must not grow without limit if a kernel never answers.
_MOST_CURSORS = 1024


def protocol_version(kernel_info_reply: Message) -> str:
    """Return the kernel's version of the specification, from the kernel_info_reply.

    Version 4 has a list of numbers, which ``KernelInfoReply`` does not read. Without an entry the
    version is ``""``.

    Raises:
        MalformedMessage: the content is not a JSON object.
    """
    return _dotted(_fields(kernel_info_reply.raw_content).get("protocol_version"))


def needs_adapter(version: str) -> bool:
    """Return whether a kernel with this version of the specification needs an AdapterV4."""
    return version.partition(".")[0] == "4"


def name_in_v5(msg_type: str) -> str:
    """Return the name that version 5 has for a message type of version 4."""
    return _NAMES_IN_V5.get(msg_type, msg_type)


class AdapterV4:
    """Translates between clients that speak version 5 and one kernel that speaks version 4.

    The adapter remembers the cursor position of each complete_request, because replies of version 4
    do not contain the range to replace.
    """

    def __init__(self) -> None:
        self._cursors: dict[str, int] = {}

    def to_kernel(self, message: Message) -> Message:
        """Return *message* translated to version 4.

        Raises:
            MalformedMessage: a header of the message is not a JSON object.
        """
        if message.msg_type == "complete_request":
            self._remember_cursor(message)
        return _adapted(message, _NAMES_IN_V4, None, _TO_V4.get(message.msg_type))

    def from_kernel(self, message: Message) -> Message:
        """Return *message* translated to version 5.

        Raises:
            MalformedMessage: a header of the message is not a JSON object.
        """
        adapt = _FROM_V4.get(message.msg_type)
        parent = message.parent_header
        if message.msg_type == "complete_reply" and parent and parent.msg_id in self._cursors:
            adapt = partial(_complete_reply, self._cursors.pop(parent.msg_id))
        return _adapted(message, _NAMES_IN_V5, "5.0", adapt)

    def _remember_cursor(self, request: Message) -> None:
        try:
            self._cursors[request.msg_id] = request.content.cursor_pos
        except MalformedMessage:
            return
        if len(self._cursors) > _MOST_CURSORS:
            del self._cursors[next(iter(self._cursors))]


def _adapted(
    message: Message, names: Mapping[str, str], version: str | None, adapt: _Adapt | None
) -> Message:
    raw_header, raw_parent, metadata, content, *buffers = message.parts
    header, raw_header = _adapted_header(message.header, raw_header, names, version)
    parent = message.parent_header
    if parent is not None:
        parent, raw_parent = _adapted_header(parent, raw_parent, names, version)
    if adapt is not None:
        content = _adapted_content(content, adapt)
    parts = (raw_header, raw_parent, metadata, content, *buffers)
    return Message(header, parent, parts, message.identities)


def _adapted_header(
    header: Header, raw: Frame, names: Mapping[str, str], version: str | None
) -> tuple[Header, bytes]:
    fields = _fields(raw)
    fields["msg_type"] = names.get(header.msg_type, header.msg_type)
    if version is None:
        fields.pop("version", None)
    else:
        fields["version"] = version
    raw = _json(fields)
    return tolerant_json.decode(raw, Header), raw


def _adapted_content(raw: Frame, adapt: _Adapt) -> Frame:
    try:
        fields = _fields(raw)
        if fields.get("status", "ok") != "ok":
            return raw  # errors have the same shape in both versions
        adapt(fields)
        return _json(fields)
    except MalformedMessage:
        return raw  # reading the content raises the error


# To version 4: the names and contents of messages.

_NAMES_IN_V4 = {"inspect_request": "object_info_request"}

_PARENTHESIS = re.compile(r"([()])")
_END_OF_NAME = re.compile(r"\W")
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def _execute_request(fields: _Fields) -> None:
    fields.setdefault("user_variables", [])
    fields.setdefault("user_expressions", {})


def _complete_request(fields: _Fields) -> None:
    before, after = _line_at_cursor(fields)
    fields.update(text="", line=before + after, block=None, cursor_pos=len(before))


def _inspect_request(fields: _Fields) -> None:
    before, after = _line_at_cursor(fields)
    fields["oname"] = _name_at_cursor(before, after)
    fields.setdefault("detail_level", 0)


def _line_at_cursor(fields: _Fields) -> tuple[str, str]:
    """Take ``code`` and ``cursor_pos`` out; return the line before and after the cursor."""
    code, cursor = fields.pop("code", ""), fields.pop("cursor_pos", None)
    code = code if isinstance(code, str) else ""
    cursor = max(cursor, 0) if isinstance(cursor, int) else len(code)
    return code[:cursor].rpartition("\n")[2], code[cursor:].partition("\n")[0]


def _name_at_cursor(before: str, after: str) -> str:
    """Return the function around the cursor's argument, else the dotted name at the cursor.

    In version 5 the kernel, which knows its language, does this.
    """
    line = before + _END_OF_NAME.split(after, maxsplit=1)[0]
    levels: list[list[str]] = [[]]  # the texts within each open pair of parentheses
    for text in _PARENTHESIS.split(line):
        if text == "(":
            levels.append([])
        elif text != ")":
            levels[-1].append(text)
        elif len(levels) > 1:
            levels.pop()
    function = "".join(levels[-2]) if len(levels) > 1 else ""
    name = _last_name(function)
    return name if name and function.endswith(name) else _last_name("".join(levels[-1]))


def _last_name(text: str) -> str:
    names: list[str] = _NAME.findall(text)
    return names[-1] if names else ""


_TO_V4: Mapping[str, _Adapt] = {
    "execute_request": _execute_request,
    "complete_request": _complete_request,
    "inspect_request": _inspect_request,
}


# To version 5.

_NAMES_IN_V5 = {
    "pyin": "execute_input",
    "pyout": "execute_result",
    "pyerr": "error",
    "object_info_request": "inspect_request",
    "object_info_reply": "inspect_reply",
}

# The text about an object, line by line: of each group the first field that is not empty.
_SHOWN = (
    ("call_def", "init_definition", "definition"),
    ("call_docstring", "init_docstring", "docstring"),
    ("source",),
)


def _kernel_info_reply(fields: _Fields) -> None:
    fields["protocol_version"] = _dotted(fields.get("protocol_version"))
    if "ipython_version" in fields:
        fields["implementation"] = "ipython"
        fields["implementation_version"] = _dotted(fields.pop("ipython_version"))
    fields["language_info"] = {
        "name": fields.pop("language", ""),
        "version": _dotted(fields.pop("language_version", "")),
        **_object(fields.get("language_info")),
    }
    fields.setdefault("banner", "")
    fields.setdefault("status", "ok")


def _execute_reply(fields: _Fields) -> None:
    values = _object(fields.pop("user_variables", {})) | _object(fields.get("user_expressions"))
    fields["user_expressions"] = {name: _as_result(value) for name, value in values.items()}
    fields["payload"] = [_as_payload(payload) for payload in _list(fields.get("payload"))]


def _as_result(value: Any) -> Any:
    """Return the value of a user expression as a MIME bundle; 4.0 has a string."""
    if not isinstance(value, str):
        return value
    return {"status": "ok", "data": {"text/plain": value}, "metadata": {}}


def _as_payload(payload: Any) -> Any:
    """Return a payload; the pager's text becomes a MIME bundle."""
    fields = _object(payload)
    if "text" in fields and str(fields.get("source")).endswith("page"):
        fields["source"] = "page"  # IPython 1 has a module's name here
        fields["data"] = {"text/plain": fields.pop("text")}
        fields["start"] = fields.pop("start_line_number", 0)
        if html := fields.pop("html", None):
            fields["data"]["text/html"] = html
    return payload


def _complete_reply(cursor: int, fields: _Fields) -> None:
    matched = fields.pop("matched_text", "")
    length = len(matched) if isinstance(matched, str) else 0
    fields.update(cursor_start=max(cursor - length, 0), cursor_end=cursor)
    fields.setdefault("metadata", {})


def _inspect_reply(fields: _Fields) -> None:
    told = [_first(fields, names) for names in _SHOWN]
    text = "\n".join(filter(None, told)) or _first(fields, ("string_form", "type_name"))
    fields["data"] = {"text/plain": text} if text else {}
    fields.setdefault("found", False)
    fields.setdefault("metadata", {})
    fields.setdefault("status", "ok")


def _first(fields: _Fields, names: Iterable[str]) -> str:
    for name in names:
        text = fields.get(name)
        if isinstance(text, str) and text not in ("", "None"):  # "None" means: no source found
            return text
    return ""


def _stream(fields: _Fields) -> None:
    if "data" in fields:
        fields["text"] = fields.pop("data")


def _mime_bundle(fields: _Fields) -> None:
    fields.pop("source", None)
    fields.setdefault("metadata", {})
    data = _object(fields.get("data"))
    text = data.get("application/json")
    if isinstance(text, str):
        with suppress(ValueError, RecursionError):  # JSON already
            data["application/json"] = json.loads(text)


def _clear_output(fields: _Fields) -> None:
    fields.setdefault("wait", False)


def _input_request(fields: _Fields) -> None:
    fields.setdefault("password", False)


_FROM_V4: Mapping[str, _Adapt] = {
    "kernel_info_reply": _kernel_info_reply,
    "execute_reply": _execute_reply,
    "object_info_reply": _inspect_reply,
    "stream": _stream,
    "display_data": _mime_bundle,
    "pyout": _mime_bundle,
    "clear_output": _clear_output,
    "input_request": _input_request,
}


def _dotted(version: Any) -> str:
    """Return a version as text; a list may end with an empty string."""
    if isinstance(version, list):
        return ".".join(str(number) for number in _list(version) if number != "")
    return "" if version is None else str(version)


def _object(value: Any) -> _Fields:
    return cast("_Fields", value) if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()


def _fields(raw: Frame) -> _Fields:
    return cast("_Fields", tolerant_json.decode(raw, dict))


def _json(fields: _Fields) -> bytes:
    # Unlike msgspec, json can write everything that it reads, NaN and lone surrogates included.
    try:
        return json.dumps(fields, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"cannot be adapted: {error}") from None
