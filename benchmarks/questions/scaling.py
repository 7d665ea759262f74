"""How do executions per second grow from 1 client to 50 in one process?"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.crowd import connected
from benchmarks.lab import Lab, Sizes
from benchmarks.peers import ASYNCIO, JUPYTER, PLAIN, TRIO, Peer
from benchmarks.question import Contender, Question

_MOST_CLIENTS = Sizes(50, 50, 2)
_EXECUTIONS = Sizes(1_000, 200, 10)


def _per_second(peer: Peer, count: int, lab: Lab) -> float:
    count = min(count, lab.size(_MOST_CLIENTS))
    each = lab.size(_EXECUTIONS) // count

    async def program() -> float:
        async with connected(peer, lab.fifty[:count]) as clients:
            await peer.each(clients, "pass", 1)
            began = time.perf_counter()
            await peer.each(clients, "result", each)
            return count * each / (time.perf_counter() - began)

    return peer.run(program)


QUESTIONS = [
    Question(
        name=f"scaling.{count:02}",
        title=f"Executions a second, {count} clients",
        unit="executions/s",
        better="more",
        contenders=[
            Contender(peer.name, partial(_per_second, peer, count))
            for peer in (ASYNCIO, TRIO, JUPYTER, PLAIN)
        ],
        rounds=Sizes(3, 1, 1),
        curve=(count, "clients"),
    )
    for count in (1, 5, 10, 20, 35, 50)
]
