"""How much do programs of Jupyter gain from kernelproto, without a change of their code?

jupyter_client starts kernels by its own provisioner or by that of kernelproto. jupyter_server has
these two, and the extension, which runs the kernels in the process of the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Literal

import anyio

from benchmarks.lab import Lab, Sizes
from benchmarks.peers.jupyter import JupyterLauncher
from benchmarks.peers.peer import run_in, trip_milliseconds
from benchmarks.peers.servers import IN_PROCESS, JUPYTER, PROVISIONED
from benchmarks.question import Contender, Goal, Question
from benchmarks.questions.flood import DISPLAYS

_TRIPS = Sizes(100, 20, 2)
_DISPLAYS = Sizes(5_000, 1_000, 20)
_LOST = Sizes(20_000, 2_000, 20)
_BLOCKED_SECONDS = Sizes(12, 2, 1)
_GRACE_SECONDS = 0.5
_ROUNDS = Sizes(5, 2, 1)

_CLIENT = JupyterLauncher()
_CLIENT_PROVISIONED = JupyterLauncher("kernelproto")

Program = Callable[[Lab], AbstractAsyncContextManager[Any]]

_PROGRAMS: dict[str, Program] = {
    **{each.name: lambda _, each=each: each.launch() for each in (_CLIENT, _CLIENT_PROVISIONED)},
    **{each.name: each.launch for each in (JUPYTER, PROVISIONED, IN_PROCESS)},
}


def _start(launch: Program, lab: Lab) -> float:
    """Return the milliseconds from the request for a kernel to its first result."""

    async def program() -> float:
        began = time.perf_counter()
        async with launch(lab) as kernel:
            assert await kernel.client.execute("6 * 7") == 1
            return (time.perf_counter() - began) * 1e3

    return run_in("asyncio", program)


def _shutdown(launch: Program, lab: Lab) -> float:
    async def program() -> float:
        async with launch(lab) as kernel:
            assert await kernel.client.execute("6 * 7") == 1
            began = time.perf_counter()
            await kernel.shutdown()
            return (time.perf_counter() - began) * 1e3

    return run_in("asyncio", program)


def _round_trip(launch: Program, lab: Lab) -> float:
    """Return the median of some round trips in milliseconds, after a warm-up."""

    async def program() -> float:
        async with launch(lab) as kernel:
            return await trip_milliseconds(kernel.client, "6 * 7", lab.size(_TRIPS))

    return run_in("asyncio", program)


def _flood(launch: Program, lab: Lab) -> float:
    """Return the displays per second that arrive; those that are lost do not count."""
    count = lab.size(_DISPLAYS)

    async def program() -> float:
        async with launch(lab) as kernel:
            await kernel.client.execute("pass")
            received, seconds = await kernel.client.stream(DISPLAYS.format(count))
        return received / seconds

    return run_in("asyncio", program)


def _lost(launch: Program, lab: Lab) -> float:
    """Return the displays that are lost while the program that should read them is blocked."""
    count, seconds = lab.size(_LOST), lab.size(_BLOCKED_SECONDS)
    code = f"{DISPLAYS.format(count)}time.sleep({seconds + _GRACE_SECONDS})"

    async def block() -> None:
        await anyio.sleep(_GRACE_SECONDS)  # until the request is sent
        time.sleep(seconds)  # noqa: ASYNC251 - that is the question

    async def program() -> float:
        async with launch(lab) as kernel, anyio.create_task_group() as tasks:
            await kernel.client.execute("pass")
            tasks.start_soon(block)
            received, _ = await kernel.client.stream(code)
        return count - received

    return run_in("asyncio", program)


def _question(
    name: str,
    title: str,
    unit: str,
    sample: Callable[[Program, Lab], float],
    *,
    better: Literal["less", "more"] = "less",
    goals: Sequence[Goal] = (),
    rounds: Sizes = _ROUNDS,
) -> Question:
    return Question(
        name=f"adoption.{name}",
        title=title,
        unit=unit,
        better=better,
        contenders=[
            Contender(program, partial(sample, launch)) for program, launch in _PROGRAMS.items()
        ],
        goals=goals,
        rounds=rounds,
    )


QUESTIONS = [
    _question("start", "Start in programs of Jupyter, to the first result", "ms", _start),
    _question("shutdown", "Shutdown in programs of Jupyter", "ms", _shutdown),
    _question("round_trip", "Execute round trip in programs of Jupyter", "ms", _round_trip),
    _question(
        "flood", "Flood of displays in programs of Jupyter", "displays/s", _flood, better="more"
    ),
    _question(
        "lost",
        "Displays lost of 20,000 in programs of Jupyter, while the reader is blocked for 12 s",
        "displays",
        _lost,
        goals=[
            Goal(subject=program, limit=0)
            for program in (_CLIENT_PROVISIONED.name, PROVISIONED.name, IN_PROCESS.name)
        ],
        rounds=Sizes(1, 1, 1),
    ),
]
