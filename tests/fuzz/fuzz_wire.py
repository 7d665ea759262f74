"""A fuzz target: mutated messages into the Codec and the Conversation.

Every message is made from a valid one by a few random mutations. Some are then signed anew, so
that they get past the signature. Two things must hold:

- nothing but a ProtocolError ever comes out,
- what is accepted without being signed anew is, in all that a signature covers, a message that
  was signed by us, and is accepted once.

Run a million of them:  python tests/fuzz/fuzz_wire.py --count 1000000
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from kernelproto.exceptions import ProtocolError, ReplayedMessage
from kernelproto.wire import CHANNEL_NAMES, Codec, Conversation, MessageFactory, Signer
from kernelproto.wire.codec import DELIMITER

KEY = b"a key that nobody else has"
SESSION = "the session of the client"

Frames = list[bytes]
Mutation = Callable[[random.Random, Frames], None]

CONTENTS = {
    "stream": {"name": "stdout", "text": "hello \N{SNOWMAN}"},
    "status": {"execution_state": "idle"},
    "execute_result": {"data": {"text/plain": "42"}, "metadata": {}, "execution_count": 3},
    "error": {"ename": "E", "evalue": "v", "traceback": ["a", "b"]},
    "execute_reply": {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}},
    "kernel_info_reply": {"status": "ok", "language_info": {"name": "python"}, "help_links": []},
    "history_reply": {"status": "ok", "history": [[1, 2, "x"], [1, 3, ["x", "y"]]]},
    "input_request": {"prompt": "? ", "password": False},
    "comm_msg": {"comm_id": "c", "data": {"nested": [1, 2.5, None, {"deep": [[]]}]}},
    "iopub_welcome": {"subscription": "topic"},
    "of_no_known_type": {"anything": 1},
}

TEXTS = (
    b"null",
    b"NaN",
    b"-Infinity",
    b'"\\ud800"',
    b"[]",
    b"{}",
    b"1e999",
    b"9" * 5000,
    b"[" * 3000,
)


def flip_a_bit(chance: random.Random, frames: Frames) -> None:
    index = chance.randrange(len(frames))
    frame = bytearray(frames[index])
    if frame:
        frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
    frames[index] = bytes(frame)


def cut_a_frame(chance: random.Random, frames: Frames) -> None:
    index = chance.randrange(len(frames))
    frames[index] = frames[index][: chance.randrange(len(frames[index]) + 1)]


def drop_a_frame(chance: random.Random, frames: Frames) -> None:
    del frames[chance.randrange(len(frames))]


def double_a_frame(chance: random.Random, frames: Frames) -> None:
    frames.insert(chance.randrange(len(frames) + 1), chance.choice(frames))


def swap_frames(chance: random.Random, frames: Frames) -> None:
    one, other = chance.randrange(len(frames)), chance.randrange(len(frames))
    frames[one], frames[other] = frames[other], frames[one]


def splice_json(chance: random.Random, frames: Frames) -> None:
    index = chance.randrange(len(frames))
    place = chance.randrange(len(frames[index]) + 1)
    frames[index] = frames[index][:place] + chance.choice(TEXTS) + frames[index][place:]


def replace_by_json(chance: random.Random, frames: Frames) -> None:
    frames[chance.randrange(len(frames))] = chance.choice(TEXTS)


def replace_by_noise(chance: random.Random, frames: Frames) -> None:
    frames[chance.randrange(len(frames))] = chance.randbytes(chance.randrange(64))


MUTATIONS: tuple[Mutation, ...] = (
    flip_a_bit,
    cut_a_frame,
    drop_a_frame,
    double_a_frame,
    swap_frames,
    splice_json,
    replace_by_json,
    replace_by_noise,
)


def run(count: int, seed: int) -> Counter[str]:
    """Send *count* mutated messages to a codec and a conversation; count what became of them."""
    chance = random.Random(seed)
    numbers = iter(range(10**9))
    factory = MessageFactory(
        session=SESSION, username="u", new_id=lambda: f"id-{next(numbers)}", now=lambda: "now"
    )
    ours, signer = Codec(KEY), Signer(KEY)
    codec, conversation = Codec(KEY), Conversation(SESSION)
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        request = factory.message(chance.choice(["execute_request", "complete_request"]), {})
        conversation.sent(request, "shell")
        msg_type = chance.choice(list(CONTENTS))
        message = factory.message(
            msg_type, CONTENTS[msg_type], parent=request, buffers=[b"buffer"] * chance.randrange(3)
        )
        frames = [bytes(frame) for frame in ours.encode(message, [b"topic"] * chance.randrange(2))]
        original = _covered(frames)
        for _ in range(chance.randrange(4)):
            if frames:
                chance.choice(MUTATIONS)(chance, frames)
        signed_anew = chance.random() < 0.5 and _sign(frames, signer)
        try:
            received = codec.decode(frames)
        except ProtocolError as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["accepted"] += 1
            assert signed_anew or _covered(frames) == original, f"a forgery: {frames}"
            assert _is_refused_as_replay(codec, frames), f"accepted twice: {frames}"
            with suppress(ProtocolError):
                conversation.received(received, chance.choice(CHANNEL_NAMES))
                _ = received.content, received.metadata, received.buffers
        conversation.forget(request.msg_id)
    assert len(conversation) == 0
    return outcomes


def _is_refused_as_replay(codec: Codec, frames: Frames) -> bool:
    try:
        codec.decode(frames)
    except ReplayedMessage:
        return True
    return False


def _covered(frames: Frames) -> bytes:
    """Return all that the signature covers, and the signature."""
    start = frames.index(DELIMITER) if DELIMITER in frames else len(frames)
    return b"\0".join(frames[start : start + 6])


def _sign(frames: Frames, signer: Signer) -> bool:
    if DELIMITER not in frames:
        return False
    start = frames.index(DELIMITER)
    if len(frames) < start + 6:
        return False
    frames[start + 1] = signer.sign(frames[start + 2 : start + 6])
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(2**32)
    print(f"seed {seed}")
    began = time.perf_counter()
    outcomes = run(arguments.count, seed)
    print(f"{arguments.count} messages in {time.perf_counter() - began:.0f} s")
    for outcome, times in outcomes.most_common():
        print(f"{times:>10} {outcome}")
