"""How long does one very large output take: as text in the content, and as a binary buffer?"""

from __future__ import annotations

from functools import partial
from typing import Literal

from benchmarks.lab import Lab, Sizes
from benchmarks.peers import (
    JUPYTER,
    JUPYTER_BLOCKING,
    OURS,
    PLAIN_DECODING,
    Jupyverse,
    Peer,
    ZmqAnyio,
)
from benchmarks.question import Contender, Question

_BYTES = Sizes(32 * 2**20, 32 * 2**20, 2**20)

PEERS: list[Peer] = [
    *OURS,
    JUPYTER,
    JUPYTER_BLOCKING,
    Jupyverse(),
    ZmqAnyio(),
    PLAIN_DECODING,
]


def _milliseconds(peer: Peer, kind: Literal["display", "buffer"], lab: Lab) -> float:
    size = lab.size(_BYTES)

    async def program() -> float:
        async with peer.connect(lab.synthetic) as client:
            await client.execute("pass")
            if kind == "display":
                received, seconds = await client.stream(f"display {size}")
                assert received == 2
            else:
                received, seconds = await client.buffers(f"buffer {size}")
                assert received == size
            return seconds * 1e3

    return peer.run(program)


def _question(kind: Literal["display", "buffer"], title: str) -> Question:
    return Question(
        name=f"large.{kind}",
        title=title,
        unit="ms",
        contenders=[Contender(peer.name, partial(_milliseconds, peer, kind)) for peer in PEERS],
        rounds=Sizes(10, 3, 1),
    )


QUESTIONS = [
    _question("display", "A display of 32 MiB of text"),
    _question("buffer", "A binary buffer of 32 MiB"),
]
