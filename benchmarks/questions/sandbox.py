"""What does a sandbox cost: CPU time of a conversation, and time to the first result?

A conversation starts a forked ipykernel, runs three cells and shuts it down; several run one after
the other in a fresh process whose fork server has forked a kernel before. The CPU time is that of
all processes: the program, the kernels, the fork server and the processes of the sandboxes.
"""

from __future__ import annotations

from functools import partial

from benchmarks.alone import run_alone
from benchmarks.lab import Lab, Sizes
from benchmarks.peers.ours import KernelprotoLauncher
from benchmarks.proc import cpu_seconds
from benchmarks.question import Contender, Goal, Question
from benchmarks.questions.start import milliseconds

_CONVERSATIONS = Sizes(20, 6, 1)
_CELLS = ("x = 6", "print(x * 7)", "x + 1")

_PLAIN, _SANDBOXED = (
    KernelprotoLauncher("asyncio", "fork/kernel", prepared=True, sandboxed=sandboxed)
    for sandboxed in (False, True)
)


def measure(sandboxed: bool, count: int) -> float:
    """Have *count* conversations; return the ms of CPU time for each. Called in a new process."""
    launcher = _SANDBOXED if sandboxed else _PLAIN

    async def program() -> float:
        used = cpu_seconds()
        for _ in range(count):
            async with launcher.launch() as kernel:
                for cell in _CELLS:
                    await kernel.client.execute(cell)
                await kernel.shutdown()
        return (cpu_seconds() - used) / count * 1e3

    return launcher.run(program)


def _cpu(sandboxed: bool, lab: Lab) -> float:
    return float(run_alone(f"{__name__}:measure", sandboxed, lab.size(_CONVERSATIONS)))


QUESTIONS = [
    Question(
        name="sandbox.cpu",
        title="CPU time of a conversation of three cells, with and without a sandbox",
        unit="ms",
        contenders=[
            Contender(_PLAIN.name, partial(_cpu, False)),
            Contender(_SANDBOXED.name, partial(_cpu, True)),
        ],
        goals=[Goal(subject=_SANDBOXED.name, baseline=_PLAIN.name, limit=1.05)],
        rounds=Sizes(7, 2, 1),
    ),
    Question(
        name="sandbox.start",
        title="Start of a forked ipykernel to its first result, with and without a sandbox",
        unit="ms",
        contenders=[
            Contender(launcher.name, partial(milliseconds, launcher))
            for launcher in (_PLAIN, _SANDBOXED)
        ],
        goals=[Goal(subject=_SANDBOXED.name, limit=100)],
        rounds=Sizes(15, 3, 1),
    ),
]
