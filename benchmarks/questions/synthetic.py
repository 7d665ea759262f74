"""How fast is the synthetic kernel? It must not be the bottleneck."""

from __future__ import annotations

from benchmarks.lab import Lab, Sizes
from benchmarks.peers import PLAIN
from benchmarks.question import Contender, Question

_MESSAGES = Sizes(20_000, 5_000, 100)


def _sent(lab: Lab) -> float:
    """Let the kernel send to a loop that reads, and return how fast the kernel was."""

    async def program() -> float:
        async with PLAIN.connect(lab.synthetic) as client:
            await client.stream(f"outputs {lab.size(_MESSAGES)}")
            return float(client.reply["sent_per_second"])

    return PLAIN.run(program)


def _received(lab: Lab) -> float:
    async def program() -> float:
        async with PLAIN.connect(lab.synthetic) as client:
            count, seconds = await client.stream(f"outputs {lab.size(_MESSAGES)}")
            return count / seconds

    return PLAIN.run(program)


QUESTIONS = [
    Question(
        name="synthetic",
        title="The synthetic kernel: how fast it talks, and how fast a plain loop can listen",
        unit="messages/s",
        better="more",
        contenders=[
            Contender("sent by the kernel", _sent),
            Contender("received by a pyzmq loop", _received),
        ],
    )
]
