"""How long does the import take in a fresh interpreter: the package, the parts that start kernels?

Both matter, because a package may defer imports until a name is used.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from benchmarks.lab import Lab, Sizes
from benchmarks.question import Contender, Goal, Question

_PROGRAM = """
import time
began = time.perf_counter()
{}
print((time.perf_counter() - began) * 1e3)
"""


def _milliseconds(statement: str, lab: Lab) -> float:
    program = [sys.executable, "-c", _PROGRAM.format(statement)]
    return float(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


def _question(name: str, title: str, statements: dict[str, str], goals: list[Goal]) -> Question:
    return Question(
        name=f"import.{name}",
        title=title,
        unit="ms",
        contenders=[
            Contender(contender, partial(_milliseconds, statement))
            for contender, statement in statements.items()
        ],
        goals=goals,
        rounds=Sizes(25, 7, 1),
    )


QUESTIONS = [
    _question(
        "package",
        "Import of the package",
        {
            "kernelproto": "import kernelproto",
            "jupyter_client": "import jupyter_client",
            "anyio, msgspec, zmq": "import anyio, msgspec, zmq",
        },
        [Goal(subject="kernelproto", baseline="jupyter_client", limit=0.6)],
    ),
    _question(
        "names",
        "Import of the parts that start kernels and talk to them",
        {
            "kernelproto": "from kernelproto import run_kernel, connect_kernel",
            "jupyter_client": "from jupyter_client import AsyncKernelManager, AsyncKernelClient",
        },
        [],
    ),
]
