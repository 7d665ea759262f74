"""How fast are kernels behind a server, for the same client on a WebSocket?"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.lab import Lab, Sizes
from benchmarks.peers.peer import run_in, trip_milliseconds
from benchmarks.peers.servers import FORKED, JUPYTER, OURS, WITHOUT_DELAY, Server
from benchmarks.question import Contender, Goal, Question
from benchmarks.questions.flood import DISPLAYS

_TRIPS = Sizes(200, 50, 3)


def _round_trip(server: Server, kernel: str, code: str, lab: Lab) -> float:
    """Return the median of some round trips in milliseconds, after a warm-up."""

    async def program() -> float:
        async with server.open(lab) as api, server.connected(api, kernel) as client:
            return await trip_milliseconds(client, code, lab.size(_TRIPS))

    return run_in("asyncio", program)


def _per_second(server: Server, kernel: str, code: str, messages: Sizes, lab: Lab) -> float:
    count = lab.size(messages)

    async def program() -> float:
        async with server.open(lab) as api, server.connected(api, kernel) as client:
            await client.execute("pass")
            received, seconds = await client.stream(code.format(count))
        if received != count:
            raise RuntimeError(f"{count - received} of {count} outputs were lost")
        return count / seconds

    return run_in("asyncio", program)


def _first_cell(server: Server, lab: Lab) -> float:
    """Return the milliseconds from the request for a kernel to the end of its first execution."""

    async def program() -> float:
        async with server.open(lab) as api:
            async with server.connected(api, server.ipykernel):
                pass  # everything kept for the next one exists
            began = time.perf_counter()
            async with server.connected(api, server.ipykernel) as client:
                assert await client.execute("6 * 7") == 1
                return (time.perf_counter() - began) * 1e3

    return run_in("asyncio", program)


def _round_trips(name: str, code: str, goals: list[Goal]) -> Question:
    return Question(
        name=f"websocket.round_trip_{name}",
        title=f"Execute round trip through a server, {name}",
        unit="ms",
        contenders=[
            Contender(
                server.name,
                partial(_round_trip, server, _kernel(server, name), code),
            )
            for server in (OURS, JUPYTER, WITHOUT_DELAY)
        ],
        goals=goals,
        rounds=Sizes(5, 3, 1),
    )


def _flood(name: str, code: str, messages: Sizes, goals: list[Goal]) -> Question:
    return Question(
        name=f"websocket.flood_{name}",
        title=f"Flood of outputs through a server, {name}",
        unit="messages/s",
        better="more",
        contenders=[
            Contender(
                server.name, partial(_per_second, server, _kernel(server, name), code, messages)
            )
            for server in (OURS, JUPYTER)
        ],
        goals=goals,
        rounds=Sizes(3, 2, 1),
    )


def _kernel(server: Server, name: str) -> str:
    return server.ipykernel if name == "ipykernel" else name


QUESTIONS = [
    _round_trips(
        "synthetic", "result", [Goal(subject=OURS.name, baseline=JUPYTER.name, limit=1 / 5)]
    ),
    _round_trips(
        "ipykernel", "6 * 7", [Goal(subject=OURS.name, baseline=WITHOUT_DELAY.name, limit=0.4)]
    ),
    _flood(
        "synthetic",
        "outputs {}",
        Sizes(10_000, 3_000, 100),
        [Goal(subject=OURS.name, baseline=JUPYTER.name, limit=5)],
    ),
    _flood("ipykernel", DISPLAYS, Sizes(5_000, 1_000, 20), []),
    Question(
        name="websocket.first_cell",
        title="A server's POST /api/kernels to the end of the first cell",
        unit="ms",
        contenders=[
            Contender(server.name, partial(_first_cell, server))
            for server in (FORKED, OURS, JUPYTER)
        ],
        goals=[Goal(subject=FORKED.name, limit=100)],
        rounds=Sizes(10, 2, 1),
    ),
]
