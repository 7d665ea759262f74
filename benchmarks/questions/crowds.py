"""What does an execution cost with many clients in one process, and with many WebSockets?

CPU time, because kernels and clients share the processors. The clients of different kernels have
nothing in common, so the cost of one must not grow with the others. Clients of one kernel all
receive its messages, so the cost for each client must not grow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.crowd import connected
from benchmarks.lab import Lab, Sizes
from benchmarks.peers import ASYNCIO, JUPYTER, TRIO, Peer
from benchmarks.peers.peer import run_in
from benchmarks.peers.servers import JUPYTER as JUPYTER_SERVER
from benchmarks.peers.servers import OURS, Server
from benchmarks.proc import TICK_SECONDS, cpu_seconds
from benchmarks.question import Contender, Question

_NUMBERS = (1, 3, 12, 48)
_SOCKETS = (1, 10, 50, 200)
_MOST = Sizes(200, 200, 3)
_EXECUTIONS = Sizes(500, 100, 5)
_DELIVERIES = Sizes(2_000, 1_000, 6)  # executions, times the WebSockets that observe them


async def _cpu_of_executions(peer: Peer, files: Sequence[Path], count: int) -> float:
    """Return the seconds of CPU time of executions by the first of several clients."""
    async with connected(peer, files) as clients:
        await peer.each(clients, "pass", 1)
        before = time.process_time()
        await peer.each(clients[:1], "result", count)
        return time.process_time() - before


def _kernels(peer: Peer, number: int, lab: Lab) -> float:
    """Return the µs of an execution on one kernel, beside clients of other kernels."""
    files, count = lab.fifty[: min(number, lab.size(_MOST))], lab.size(_EXECUTIONS)
    return peer.run(lambda: _cpu_of_executions(peer, files, count)) / count * 1e6


def _clients(peer: Peer, number: int, lab: Lab) -> float:
    """Return the µs for each client of an execution that all clients of a kernel observe."""
    clients, count = min(number, lab.size(_MOST)), lab.size(_EXECUTIONS)
    files = [lab.synthetic] * clients
    return peer.run(lambda: _cpu_of_executions(peer, files, count)) / count / clients * 1e6


def _websockets(server: Server, number: int, lab: Lab) -> float:
    """Return the µs of the server for each WebSocket of an execution that all of them observe."""
    sockets = min(number, lab.size(_MOST))
    count = min(lab.size(_EXECUTIONS), lab.size(_DELIVERIES) // sockets)

    async def program() -> float:
        async with (
            server.open(lab) as api,
            server.connected(api, "synthetic", observers=sockets - 1) as client,
        ):
            await client.execute("pass")
            pid = server.pid(lab)
            before = cpu_seconds(pid, children=False)
            for _ in range(count):
                await client.execute("result")
            used = cpu_seconds(pid, children=False) - before
            return max(used, TICK_SECONDS) / count / sockets * 1e6

    return run_in("asyncio", program)


def _question(
    name: str,
    title: str,
    number: int,
    label: str,
    sample: Callable[[Any, int, Lab], float],
    contenders: Sequence[Peer | Server],
) -> Question:
    return Question(
        name=f"crowds.{name}_{number:03}",
        title=f"{title}: {number}",
        unit="µs of CPU time",
        contenders=[
            Contender(contender.name, partial(sample, contender, number))
            for contender in contenders
        ],
        rounds=Sizes(3, 1, 1),
        curve=(number, label),
    )


QUESTIONS = [
    *(
        _question(
            "kernels",
            "CPU time of an execution, by the kernels with a client in this process",
            number,
            "kernels",
            _kernels,
            (ASYNCIO, TRIO, JUPYTER),
        )
        for number in _NUMBERS
    ),
    *(
        _question(
            "clients",
            "CPU time of an execution for each client in this process that observes it",
            number,
            "clients of one kernel",
            _clients,
            (ASYNCIO, TRIO),
        )
        for number in _NUMBERS
    ),
    *(
        _question(
            "websockets",
            "CPU time of a server for an execution and each WebSocket that observes it",
            number,
            "WebSockets of one kernel",
            _websockets,
            (OURS, JUPYTER_SERVER),
        )
        for number in _SOCKETS
    ),
]
