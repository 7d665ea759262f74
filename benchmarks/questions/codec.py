"""How long does it take to write and to read a message? No sockets; all sign and verify.

Writing goes from the content to the frames, header included. Reading goes from the frames to the
content, with signature and replay checks. The mix is that of a notebook that prints and plots.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from jupyter_client.session import Session

from benchmarks.lab import Lab, Sizes
from benchmarks.question import Contender, Goal, Question
from benchmarks.synthetic_kernel import TEXT
from kernelproto.wire import Codec, MessageFactory
from kernelproto.wire.message import timestamp

_KEY = uuid.uuid4().hex.encode()
_MESSAGES = Sizes(5_000, 2_000, 20)

_DATA = {"text/plain": "<Figure size 640x480 with 1 Axes>", "image/png": "iVBORw0KGgo" * 400}
_MIX: Sequence[tuple[str, dict[str, Any]]] = [
    ("status", {"execution_state": "busy"}),
    ("stream", {"name": "stdout", "text": TEXT}),
    ("stream", {"name": "stdout", "text": TEXT * 4}),
    ("display_data", {"data": _DATA, "metadata": {}, "transient": {}}),
    (
        "execute_reply",
        {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}},
    ),
    ("status", {"execution_state": "idle"}),
]


def _messages(count: int) -> Sequence[tuple[str, dict[str, Any]]]:
    return list(itertools.islice(itertools.cycle(_MIX), count))


def _factory() -> MessageFactory:
    session, count = uuid.uuid4().hex, itertools.count()
    return MessageFactory(
        session=session,
        username="me",
        new_id=lambda: f"{session}_{next(count)}",
        now=lambda: timestamp(datetime.now(UTC)),  # as the client does
    )


def _written(count: int) -> list[list[bytes]]:
    factory, codec = _factory(), Codec(_KEY)
    parent = factory.message("execute_request", {"code": "draw()"})
    return [
        [bytes(frame) for frame in codec.encode(factory.message(kind, content, parent=parent))]
        for kind, content in _messages(count)
    ]


def _microseconds(function: Callable[[Any], object], items: Sequence[Any]) -> float:
    began = time.perf_counter()
    for item in items:
        function(item)
    return (time.perf_counter() - began) / len(items) * 1e6


def _decode(lab: Lab) -> float:
    codec = Codec(_KEY)
    return _microseconds(lambda frames: codec.decode(frames).content, _written(lab.size(_MESSAGES)))


def _decode_jupyter(lab: Lab) -> float:
    session = Session(key=_KEY)

    def decode(frames: list[bytes]) -> object:
        return session.deserialize(session.feed_identities(frames)[1])["content"]

    return _microseconds(decode, _written(lab.size(_MESSAGES)))


def _encode(lab: Lab) -> float:
    factory, codec = _factory(), Codec(_KEY)
    parent = factory.message("execute_request", {"code": "draw()"})
    return _microseconds(
        lambda item: codec.encode(factory.message(item[0], item[1], parent=parent)),
        _messages(lab.size(_MESSAGES)),
    )


def _encode_jupyter(lab: Lab) -> float:
    session = Session(key=_KEY)
    parent = session.msg("execute_request", {"code": "draw()"})
    return _microseconds(
        lambda item: session.serialize(session.msg(item[0], item[1], parent=parent)),
        _messages(lab.size(_MESSAGES)),
    )


QUESTIONS = [
    Question(
        name="codec.decode",
        title="Codec: reading a message, verified",
        unit="µs",
        contenders=[
            Contender("kernelproto", _decode),
            Contender("jupyter_client", _decode_jupyter),
        ],
        goals=[Goal(subject="kernelproto", baseline="jupyter_client", limit=1 / 8)],
    ),
    Question(
        name="codec.encode",
        title="Codec: writing a message, signed",
        unit="µs",
        contenders=[
            Contender("kernelproto", _encode),
            Contender("jupyter_client", _encode_jupyter),
        ],
        goals=[Goal(subject="kernelproto", baseline="jupyter_client", limit=1 / 1.6)],
    ),
]
