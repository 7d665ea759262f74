"""How long does a short execution take, from the request to its reply, output and "idle"?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.exceptions import Skipped
from benchmarks.lab import Lab, Sizes
from benchmarks.peers import (
    BLOCKING,
    JUPYTER,
    JUPYTER_BLOCKING,
    OURS,
    PLAIN,
    Jupyverse,
    Peer,
    ZmqAnyio,
)
from benchmarks.peers.peer import trip_milliseconds
from benchmarks.question import Contender, Goal, Question

_TRIPS = Sizes(200, 50, 3)

PEERS: list[Peer] = [
    *OURS,
    BLOCKING,
    JUPYTER,
    JUPYTER_BLOCKING,
    Jupyverse(),
    ZmqAnyio(),
    PLAIN,
]


def milliseconds(peer: Peer, kernel: Callable[[Lab], Path], code: str, lab: Lab) -> float:
    """Return the median of some round trips, after a warm-up."""

    async def program() -> float:
        async with peer.connect(kernel(lab)) as client:
            return await trip_milliseconds(client, code, lab.size(_TRIPS))

    return peer.run(program)


def _xeus_python(lab: Lab) -> Path:
    try:
        return lab.xeus_python
    except RuntimeError:
        raise Skipped("xeus-python is not installed") from None


def _question(
    name: str, kernel: Callable[[Lab], Path], code: str, goals: list[Goal], rounds: Sizes
) -> Question:
    return Question(
        name=f"round_trip.{name}",
        title=f"Execute round trip, {name.replace('_', '-')}",
        unit="ms",
        contenders=[
            Contender(peer.name, partial(milliseconds, peer, kernel, code)) for peer in PEERS
        ],
        goals=goals,
        rounds=rounds,
    )


QUESTIONS = [
    _question(
        "synthetic",
        lambda lab: lab.synthetic,
        "result",
        [
            Goal(subject=ours.name, baseline=baseline.name, limit=limit)
            for ours in OURS
            for baseline, limit in [(JUPYTER, 0.6), (PLAIN, 1.5)]
        ],
        Sizes(9, 3, 1),
    ),
    _question(
        "ipykernel",
        lambda lab: lab.ipykernel,
        "6 * 7",
        [
            Goal(subject=ours.name, baseline=JUPYTER.name, floor=PLAIN.name, limit=1 / 4)
            for ours in OURS
        ],
        Sizes(5, 3, 1),
    ),
    _question(
        "ipykernel_history",
        lambda lab: lab.ipykernel_with_history,
        "6 * 7",
        [Goal(subject=ours.name, baseline=JUPYTER.name, limit=1) for ours in OURS],
        Sizes(5, 3, 1),
    ),
    _question("xeus_python", _xeus_python, "6 * 7", [], Sizes(5, 2, 1)),
]
