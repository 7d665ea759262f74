"""What hostile clients do to WebSockets, and all attacks together."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterator
from dataclasses import replace
from random import Random
from typing import Any

from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing
from tests.integration.attacks import HTTP_ATTACKS, Attack, Kind, Target, handshake

SWITCHED = 101
ATTACK_SESSION = "x"
"""The session of all requests that a server forwards to the attacker's kernel."""


def frame(
    opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, length: int | None = None
) -> bytes:
    """Return a frame of RFC 6455; its header may claim another *length*."""
    size = len(payload) if length is None else length
    mask = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", fin << 7 | opcode, mask | size)
    elif size < 2**16:
        head = struct.pack("!BBH", fin << 7 | opcode, mask | 126, size)
    else:
        head = struct.pack("!BBQ", fin << 7 | opcode, mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload  # with a mask of zeros it is as it was


def broken_handshake(random: Random, target: Target) -> Attack:
    headers = random.choice(
        [
            {"Sec-WebSocket-Version": "12"},
            {"Sec-WebSocket-Key": "short"},
            {"Sec-WebSocket-Key": ""},
            {"Connection": "keep-alive, close"},
            {"Upgrade": "h2c"},
            {"Sec-WebSocket-Protocol": "v1\x01"},
        ]
    )
    data = handshake(f"/api/kernels/{target.kernel_id}/channels", target.token, headers)
    # uvicorn says nothing to a header that it cannot read.
    return Attack(request=data, statuses=[400, 404, 426], hangs_up=b"\x01" in data)


def websocket(
    random: Random,
    target: Target,
    frames: bytes,
    codes: Collection[int],
    *,
    legacy: bool = False,
) -> Attack:
    path = f"/api/kernels/{target.kernel_id}/channels?session_id={random.getrandbits(64)}"
    headers = {} if legacy else {"Sec-WebSocket-Protocol": V1_SUBPROTOCOL}
    return Attack(
        request=handshake(path, target.token, headers),
        statuses=[SWITCHED],
        frames=frames,
        codes=codes,
    )


TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


def broken_frame(random: Random, target: Target) -> Attack:
    if random.random() < 0.1:  # it may announce what never comes
        attack = websocket(random, target, random.randbytes(random.randrange(1, 50)), ())
        return replace(attack, hangs_up=True)
    huge = random.choice([target.message_limit + 1, 2**32, 2**63 - 1])
    return websocket(
        random,
        target,
        *random.choice(
            [
                (frame(BINARY, b"x", masked=False), [1002]),
                (frame(random.choice([3, 7, 0xB, 0xF]), b"x"), [1002]),
                (frame(0x40 | BINARY, b"x"), [1002]),
                (frame(0, b"x"), [1002]),
                (frame(PING, b"x", fin=False), [1002]),
                (frame(PING, b"x" * 126), [1002]),
                (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), [1002]),
                (frame(TEXT, b"\xff\xfe"), [1007]),
                (frame(CLOSE, b"\0"), [1002]),
                (frame(CLOSE, struct.pack("!H", 1)), [1002]),
                (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), [1002, 1007]),
                (frame(BINARY, b"", length=huge), [1009]),
                (frame(BINARY, b"x" * (target.message_limit + 1)), [1009]),
                (frame(BINARY, bytes(target.message_limit), fin=False) + frame(0, b"x"), [1009]),
            ]
        ),
    )


def message(msg_type: str = "comm_info_request", channel: Any = "shell") -> bytes:
    header = Header(msg_id="1", msg_type=msg_type, session=ATTACK_SESSION, version="5.4")
    return bytes(client_framing(V1_SUBPROTOCOL).encode(channel, Message.build(header, {})))


def v1_frame(channel: bytes, *parts: bytes) -> bytes:
    offsets = [8 * (len(parts) + 3)]
    for part in (channel, *parts):
        offsets.append(offsets[-1] + len(part))
    table = struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets)
    return b"".join([table, channel, *parts])


HEADER = json.dumps(
    {"msg_id": "1", "msg_type": "comm_info_request", "session": ATTACK_SESSION}
).encode()

CHANNELS = ["iopub", "hb", "heartbeat", "", "shell\0", "SHELL", "../shell", "x" * 10_000, "\x1b[2J"]


def forged_channel(random: Random, target: Target) -> Attack:
    channel = random.choice(CHANNELS)
    if random.random() < 0.5:
        return websocket(random, target, frame(BINARY, message(channel=channel)), [1007])
    envelope = {"channel": channel, "header": json.loads(HEADER), "content": {}}
    data = frame(TEXT, json.dumps(envelope).encode())
    return websocket(random, target, data, [1007], legacy=True)


def broken_message(random: Random, target: Target) -> Attack:
    whole = message()
    deep = b"[" * 50_000 + b"]" * 50_000
    match random.randrange(8):
        case 0:
            data = whole[: random.randrange(len(whole))]
        case 1:
            data = struct.pack("<Q", random.choice([0, 1, 5, 2**16 + 1, 2**61, 2**64 - 1])) + whole
        case 2:
            place = 8 * random.randrange(7)
            data = whole[:place] + random.randbytes(8) + whole[place + 8 :]
        case 3:
            data = random.randbytes(random.randrange(500))
        case 4:
            header = random.choice([b"", b"{}", b"[]", b"null", deep, b'{"msg_id": 1}', b"\xff"])
            data = v1_frame(b"shell", header, b"{}", b"{}", b"{}")
        case 5:
            return websocket(random, target, frame(TEXT, random.choice([b"", HEADER])), [1007])
        case 6:
            envelope = random.choice([b"", b"{", b"[]", deep, b'{"header": ' + deep + b"}", b"NaN"])
            return websocket(random, target, frame(TEXT, envelope), [1007], legacy=True)
        case _:
            table = struct.pack("!I", random.choice([0, 1, 2**20, 2**32 - 1]))
            data = table + random.randbytes(50)
            return websocket(random, target, frame(BINARY, data), [1007], legacy=True)
    return websocket(random, target, frame(BINARY, data), [1007])


def nonsense_for_the_kernel(random: Random, target: Target) -> Attack:
    """What a message is made of is right; what it says is between the kernel and its user."""
    deep = b"[" * 500 + b"]" * 500
    part = random.choice([b"", b"null", b"\xff", deep, b'{"x": NaN}', random.randbytes(50)])
    parts = [HEADER, b"{}", b"{}", b"{}"]
    parts[random.randrange(1, 4)] = part
    channel = random.choice([b"shell", b"control", b"stdin"])
    buffers = [random.randbytes(10)] * random.choice([0, 1, 1000])
    return websocket(
        random, target, frame(BINARY, v1_frame(channel, *parts, *buffers)), [1000, 1007]
    )


WEBSOCKET_ATTACKS: list[Kind] = [
    broken_handshake,
    broken_frame,
    forged_channel,
    broken_message,
    nonsense_for_the_kernel,
]


def attacks(seed: int, target: Target, count: int) -> Iterator[tuple[str, Attack]]:
    """Iterate over attacks and the names of their kinds, of each kind equally many."""
    random = Random(seed)
    kinds = [*HTTP_ATTACKS, *WEBSOCKET_ATTACKS]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield kind.__name__, kind(random, target)
