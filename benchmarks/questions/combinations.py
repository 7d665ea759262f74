"""How much of a round trip and of a flood is the client's, and how much the kernel's?

Each client talks to each ipykernel: the stock one, and the same release with the hooks of
kernelproto, which ``pyimport/kernel`` and ``fork/kernel`` start. People have the history on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.lab import Lab, Sizes
from benchmarks.peers import ASYNCIO, JUPYTER, Peer
from benchmarks.question import Contender, Goal, Question
from benchmarks.questions.flood import DISPLAYS
from benchmarks.questions.round_trip import milliseconds

Kernel = Callable[[Lab], Path]

_CLIENTS = {"kernelproto": ASYNCIO, "jupyter_client": JUPYTER}
_OURS, _STOCK = "kernelproto, own kernel", "jupyter_client, stock kernel"

_OUTPUTS = Sizes(5_000, 1_000, 20)

_PRINTS = """
import time
print(time.monotonic(), flush=True)
for number in range(1, {}):
    print(number, flush=True)
"""


def _per_second(peer: Peer, kernel: Kernel, code: str, lab: Lab) -> float:
    count = lab.size(_OUTPUTS)

    async def program() -> float:
        async with peer.connect(kernel(lab)) as client:
            await client.execute("pass")
            _, seconds = await client.stream(code.format(count))
        return count / seconds

    return peer.run(program)


def _contenders(
    sample: Callable[[Peer, Kernel, str, Lab], float], code: str, kernels: Mapping[str, Kernel]
) -> list[Contender]:
    return [
        Contender(f"{client}, {kernel} kernel", partial(sample, peer, file, code))
        for kernel, file in kernels.items()
        for client, peer in _CLIENTS.items()
    ]


def _round_trip(history: str, limit: float, kernels: Mapping[str, Kernel]) -> Question:
    return Question(
        name=f"combinations.history_{history}",
        title=f"Execute round trip of each client on each ipykernel, history {history}",
        unit="ms",
        contenders=_contenders(milliseconds, "6 * 7", kernels),
        goals=[Goal(subject=_OURS, baseline=_STOCK, limit=limit)],
        rounds=Sizes(10, 3, 1),
    )


def _flood(name: str, title: str, code: str, limit: float) -> Question:
    return Question(
        name=f"combinations.{name}",
        title=f"{title} of each client on each ipykernel",
        unit="outputs/s",
        better="more",
        contenders=_contenders(_per_second, code, _WITHOUT_HISTORY),
        goals=[Goal(subject=_OURS, baseline=_STOCK, limit=limit)],
        rounds=Sizes(7, 2, 1),
    )


_WITHOUT_HISTORY: Mapping[str, Kernel] = {
    "own": lambda lab: lab.own_ipykernel,
    "stock": lambda lab: lab.ipykernel,
}
_WITH_HISTORY: Mapping[str, Kernel] = {
    "own": lambda lab: lab.own_ipykernel_with_history,
    "stock": lambda lab: lab.ipykernel_with_history,
}

QUESTIONS = [
    _round_trip("off", 0.5, _WITHOUT_HISTORY),
    _round_trip("on", 0.4, _WITH_HISTORY),
    _flood("displays", "Flood of displays", DISPLAYS, 4),
    _flood("prints", "Flood of print(flush=True)", _PRINTS, 2.5),
]
