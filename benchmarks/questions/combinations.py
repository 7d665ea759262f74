"""How much of a round trip is the client's, and how much the kernel's?

Each client talks to each ipykernel: the stock one, and the same release with the hooks of
kernelproto, which ``pyimport/kernel`` and ``fork/kernel`` start. People have the history on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.lab import Lab, Sizes
from benchmarks.peers import ASYNCIO, JUPYTER
from benchmarks.question import Contender, Goal, Question
from benchmarks.questions.round_trip import milliseconds

_CLIENTS = {"kernelproto": ASYNCIO, "jupyter_client": JUPYTER}


def _question(history: str, limit: float, kernels: dict[str, Callable[[Lab], Path]]) -> Question:
    return Question(
        name=f"combinations.history_{history}",
        title=f"Execute round trip of each client on each ipykernel, history {history}",
        unit="ms",
        contenders=[
            Contender(f"{client}, {kernel} kernel", partial(milliseconds, peer, file, "6 * 7"))
            for kernel, file in kernels.items()
            for client, peer in _CLIENTS.items()
        ],
        goals=[
            Goal(
                subject="kernelproto, own kernel",
                baseline="jupyter_client, stock kernel",
                limit=limit,
            )
        ],
        rounds=Sizes(10, 3, 1),
    )


QUESTIONS = [
    _question(
        "off", 0.5, {"own": lambda lab: lab.own_ipykernel, "stock": lambda lab: lab.ipykernel}
    ),
    _question(
        "on",
        0.4,
        {
            "own": lambda lab: lab.own_ipykernel_with_history,
            "stock": lambda lab: lab.ipykernel_with_history,
        },
    ),
]
