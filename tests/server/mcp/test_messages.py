from __future__ import annotations

import json
from typing import Any

import pytest

from kernelproto.server.mcp.messages import message_fault

LONG = "x" * 100_000


def call(**params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@pytest.mark.parametrize(
    "message",
    [
        {"anything": [[], {}]},
        call(name="run_code", arguments={"code": LONG, "timeout": 5}),
        call(name="upload", arguments={"content": LONG}, _meta={"progressToken": 1}),
    ],
)
def test_short_message_and_long_string_are_accepted(message: object) -> None:
    assert message_fault(json.dumps(message).encode()) is None


@pytest.mark.parametrize(
    "message",
    [
        [{}] * 50_000,
        LONG,
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"name": "", "more": LONG}},
        {**call(name="run_code"), **{str(n): n for n in range(10_000)}},
        call(name="run_code", arguments={"code": [[]] * 50_000}),
        call(name="run_code", arguments={str(n): n for n in range(10_000)}),
        call(name="run_code", _meta={str(n): n for n in range(10_000)}),
    ],
)
def test_long_message_of_many_values_is_refused(message: object) -> None:
    assert "must be a call of a tool" in (message_fault(json.dumps(message).encode()) or "")


def test_message_that_is_nested_too_deep_is_refused() -> None:
    assert message_fault(b"[" * 100_000) is not None
