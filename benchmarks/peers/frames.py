"""Minimal signing, verifying and decoding, for libraries without it."""

from __future__ import annotations

import hmac
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from orjson import loads
except ImportError:
    from json import loads  # type: ignore[assignment]

DELIMITER = b"<IDS|MSG>"

_OUTPUTS = (b'"stream"', b'"display_data"', b'"execute_result"')
_LONGEST_STATUS = 64

Frames = Sequence[bytes]


def read_info(file: Path) -> dict[str, Any]:
    """Return the contents of a connection file."""
    info: dict[str, Any] = json.loads(file.read_text())
    return info


class Wire:
    """Signs, verifies and decodes messages.

    Args:
        info: the contents of the connection file.
    """

    def __init__(self, info: dict[str, Any]) -> None:
        self._key = info["key"].encode()
        self._count = itertools.count()

    def request(self, msg_type: str, content: object) -> list[bytes]:
        """Return the frames of a request."""
        header = {"msg_id": f"plain_{id(self)}_{next(self._count)}", "msg_type": msg_type}
        header |= {"session": "plain", "username": "me", "date": "", "version": "5.3"}
        parts = [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]
        return [DELIMITER, self._signature(parts), *parts]

    def execute_request(self, code: str) -> list[bytes]:
        """Return the frames of an execute_request."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        return self.request(
            "execute_request", content | {"user_expressions": {}, "stop_on_error": True}
        )

    def decode(self, frames: Frames) -> tuple[Any, Any, Any]:
        """Verify a message; return its header, parent header and content."""
        start = frames.index(DELIMITER) + 2
        parts = frames[start : start + 4]
        if not hmac.compare_digest(self._signature(parts), frames[start - 1]):
            raise RuntimeError("wrong signature")
        return loads(parts[0]), loads(parts[1]), loads(parts[3])

    def _signature(self, parts: Frames) -> bytes:
        return hmac.digest(self._key, b"".join(parts), "sha256").hex().encode()


def is_output(frames: Frames) -> bool:
    """Return whether a message is an output, without decoding it."""
    header = frames[frames.index(DELIMITER) + 2]
    return any(msg_type in header for msg_type in _OUTPUTS)


def is_idle(frames: Frames) -> bool:
    """Return whether a message says that the kernel is idle, without decoding it."""
    content = frames[frames.index(DELIMITER) + 5]
    return len(content) < _LONGEST_STATUS and b'"idle"' in content


def text_of(content: Mapping[str, Any]) -> str | None:
    """Return the text in the content of an output."""
    text: str | None = content.get("text") or content.get("data", {}).get("text/plain")
    return text
