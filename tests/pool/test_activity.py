from __future__ import annotations

import pytest

from kernelproto.pool.activity import is_activity
from kernelproto.wire.message import Message, MessageFactory


def message(msg_type: str, parent: str | None) -> Message:
    factory = MessageFactory(
        session="s", username="u", new_id=lambda: "1", now=lambda: "2026-01-01T00:00:00Z"
    )
    asked = None if parent is None else factory.message(parent, {})
    return factory.message(msg_type, {}, parent=asked)


@pytest.mark.parametrize(
    ("msg_type", "parent", "counts"),
    [
        ("status", "execute_request", True),
        ("stream", "execute_request", True),
        ("execute_input", "execute_request", True),
        ("status", "complete_request", True),
        ("comm_msg", "comm_msg", True),
        ("status", "something_new_request", True),
        ("stream", None, True),
        ("comm_msg", None, True),
        ("status", "kernel_info_request", False),
        ("status", "comm_info_request", False),
        ("status", "debug_request", False),
        ("debug_event", "debug_request", False),
        ("status", "interrupt_request", False),
        ("status", "shutdown_request", False),
        ("status", "usage_request", False),
        ("status", None, False),
        ("iopub_welcome", None, False),
    ],
)
def test_what_counts(msg_type: str, parent: str | None, counts: bool) -> None:
    assert is_activity(message(msg_type, parent), "iopub") is counts


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
def test_replies_do_not_count_beside_what_is_published(channel) -> None:
    assert not is_activity(message("execute_reply", "execute_request"), channel)
