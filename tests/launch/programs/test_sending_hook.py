"""With the hook, a session sends the same frames as jupyter_client's own code."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session

from kernelproto.launch.programs.fast_ipykernel.sending import SendPlainly
from kernelproto.launch.programs.fast_ipykernel.streams import Direct

HEADER = {
    "msg_id": "1",
    "msg_type": "stream",
    "username": "ada",
    "session": "2",
    "date": datetime(2026, 1, 1, tzinfo=UTC),
    "version": "5.3",
}
CONTENT = {"name": "stdout", "text": "é\n"}
MESSAGE = {
    "header": HEADER,
    "msg_id": "1",
    "msg_type": "stream",
    "parent_header": {},
    "content": CONTENT,
    "metadata": {"a": 1},
}

# The arguments after the stream.
CALLS: list[tuple[Any, dict[str, Any]]] = [
    ("stream", {"content": CONTENT, "header": HEADER}),
    ("stream", {"content": CONTENT, "parent": {"header": HEADER}, "header": HEADER}),
    ("stream", {"content": CONTENT, "header": HEADER, "metadata": {"b": 2}, "ident": b"topic"}),
    ("stream", {"header": HEADER, "ident": [b"client", b"topic"], "track": True}),
    ("stream", {"content": {"text": "x" * 100_000}, "header": HEADER}),
    ("stream", {"content": CONTENT, "header": HEADER, "buffers": [b"raw", bytearray(b"data")]}),
    (MESSAGE, {"ident": b"topic"}),
    ({**MESSAGE, "buffers": [b"raw"]}, {}),
]

TRAITS: list[dict[str, Any]] = [
    {},
    {"adapt_version": 4},
    {"debug": True},
    {"pid": 1},
    {"pid": 1, "check_pid": False},
    {"copy_threshold": 10},
]


class FastSession(SendPlainly, Session):
    """A session with the hook."""


def sent_by(kind: type[Session], traits: dict[str, Any], call: tuple[Any, dict[str, Any]]) -> Any:
    """Return what a session gives to its stream, and its result."""
    sent: list[Any] = []

    def record(frames: list[Any], **options: Any) -> None:
        sent.append(([bytes(frame) for frame in frames], options))

    session = kind(key=b"secret", username="ada", session="2")
    for name, value in traits.items():
        setattr(session, name, value)
    message, options = call
    message = dict(message) if type(message) is dict else message
    result = session.send(Direct(SimpleNamespace(_really_send=record)), message, **options)
    return sent, result


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("traits", TRAITS)
def test_same_frames_as_without_the_hook(
    call: tuple[Any, dict[str, Any]], traits: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        assert sent_by(FastSession, traits, call) == sent_by(Session, traits, call)


def test_messages_arrive_through_a_socket() -> None:
    session = FastSession(key=b"secret")
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
        one.bind("inproc://sessions")
        two.connect("inproc://sessions")
        session.send(one, "stream", CONTENT, buffers=[b"raw"])
        session.send(one, "stream", CONTENT)
        first, second = (session.deserialize(two.recv_multipart()[1:]) for _ in range(2))
    assert [first["content"], second["content"]] == [CONTENT, CONTENT]
    assert [len(first["buffers"]), len(second["buffers"])] == [1, 0]
