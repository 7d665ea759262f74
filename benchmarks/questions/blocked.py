"""How many of 20,000 displays are lost while the application blocks for 12 s?"""

from __future__ import annotations

import time
from functools import partial

import anyio

from benchmarks.lab import Lab, Sizes
from benchmarks.peers import ASYNCIO, JUPYTER, TRIO, Kernelproto
from benchmarks.question import Contender, Goal, Question

_DISPLAYS = Sizes(20_000, 2_000, 20)
_SECONDS = Sizes(12, 2, 1)
_SILENCE_SECONDS = 2.0

_CODE = """
from IPython.display import display
for number in range({}):
    display({{"text/plain": str(number)}}, raw=True)
"""


def _lost(peer: Kernelproto, lab: Lab) -> float:
    count = lab.size(_DISPLAYS)

    async def program() -> float:
        async with peer.open(lab.ipykernel) as client:
            received = 0
            async with client.execute(_CODE.format(count)) as execution:
                time.sleep(lab.size(_SECONDS))  # noqa: ASYNC251 - that is the question
                with anyio.move_on_after(_SILENCE_SECONDS) as silence:
                    async for _ in execution:
                        received += 1
                        silence.deadline = anyio.current_time() + _SILENCE_SECONDS
            return count - received

    return peer.run(program)


def _lost_by_jupyter(lab: Lab) -> float:
    count = lab.size(_DISPLAYS)

    async def program() -> float:
        async with JUPYTER.open(lab.ipykernel) as client:
            client.execute(_CODE.format(count))
            time.sleep(lab.size(_SECONDS))  # noqa: ASYNC251 - that is the question
            received = 0
            # The last message may be lost too, so silence ends the measurement.
            with anyio.move_on_after(_SILENCE_SECONDS) as silence:
                while True:
                    message = await client.get_iopub_msg()
                    received += message["msg_type"] == "display_data"
                    silence.deadline = anyio.current_time() + _SILENCE_SECONDS
            return count - received

    return JUPYTER.run(program)


QUESTIONS = [
    Question(
        name="blocked",
        title="Displays lost of 20,000 from ipykernel, while the application is blocked for 12 s",
        unit="displays",
        contenders=[
            *[Contender(peer.name, partial(_lost, peer)) for peer in (ASYNCIO, TRIO)],
            Contender(JUPYTER.name, _lost_by_jupyter),
        ],
        goals=[Goal(subject=peer.name, limit=0) for peer in (ASYNCIO, TRIO)],
        rounds=Sizes(2, 1, 1),
    )
]
