"""``kernelproto bench``: how fast kernels are here, beside jupyter_client where it is installed."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from statistics import median
from typing import Any

import anyio

from kernelproto.cli.errors import CliError
from kernelproto.cli.screen import print_json, print_table
from kernelproto.cli.table import format_table
from kernelproto.run import run_kernel

_ROUND_TRIPS = 100
_FLOOD = 2000

_FLOODING = f"""\
from IPython.display import display
for number in range({_FLOOD}):
    display(number)
"""

# What is measured: in a table, and whether more of it is better.
_QUESTIONS = {
    "start": ("start until the first result", "ms", False),
    "round_trip": ("execution, there and back", "ms", False),
    "flood": ("outputs that are received", "a second", True),
    "shutdown": ("end of the kernel", "ms", False),
}

# Runs some code, and returns how many outputs it had.
Execute = Callable[[str], Awaitable[int]]
Contender = Callable[[str], AbstractAsyncContextManager[Execute]]
Answers = dict[str, list[float]]


def run_bench(kernel_type: str, *, rounds: int, as_json: bool) -> int:
    """Measure, and print what came of it; return the exit status.

    Args:
        kernel_type: a kernel type for Python.
        rounds: how many times all is measured.
        as_json: whether every sample is printed instead of a table of the medians.

    Raises:
        KernelProtoError: the kernel does not start.
    """
    answers = anyio.run(_measure, kernel_type, rounds)
    if as_json:
        print_json(answers)
    else:
        print_table(format_answers(answers))
    return 0


def format_answers(answers: Mapping[str, Answers]) -> list[str]:
    """Return the lines of a table: the medians, and how many times faster kernelproto is.

    Args:
        answers: by contender and question; times in seconds, the rest per second.
    """
    ours, *others = answers
    rows: list[list[str]] = []
    for question, (title, unit, more_is_better) in _QUESTIONS.items():
        medians = {name: median(samples[question]) for name, samples in answers.items()}
        factor, digits = (1, 0) if more_is_better else (1000, 1)
        row = [f"{title}, {unit}"]
        row += [f"{value * factor:.{digits}f}" for value in medians.values()]
        for other in others:
            ratio = medians[ours] / medians[other]
            row.append(f"{ratio if more_is_better else 1 / ratio:.1f} x")
        rows.append(row)
    header = ["", *answers, *("FASTER" for _ in others)]
    return format_table(header, rows, right=range(1, len(header)))


async def _measure(kernel_type: str, rounds: int) -> dict[str, Answers]:
    contenders: dict[str, Contender] = {"kernelproto": _kernelproto}
    if find_spec("jupyter_client") is not None:
        contenders["jupyter_client"] = _jupyter_client
    answers: dict[str, Answers] = {
        name: {question: [] for question in _QUESTIONS} for name in contenders
    }
    for number in range(1, rounds + 1):
        for name, contender in contenders.items():
            _show_progress(f"round {number} of {rounds}: {name}")
            for question, value in (await _one_round(contender, kernel_type)).items():
                answers[name][question].append(value)
    _show_progress("")
    return answers


async def _one_round(contender: Contender, kernel_type: str) -> dict[str, float]:
    began = time.perf_counter()
    async with contender(kernel_type) as execute:
        await execute("1")
        started = time.perf_counter()
        for _ in range(_ROUND_TRIPS):
            await execute("1")
        returned = time.perf_counter()
        received = await execute(_FLOODING)
        flooded = time.perf_counter()
        if received != _FLOOD:
            raise CliError(f"{received} of {_FLOOD} outputs came: is it a kernel for Python?")
        ending = time.perf_counter()
    return {
        "start": started - began,
        "round_trip": (returned - started) / _ROUND_TRIPS,
        "flood": _FLOOD / (flooded - returned),
        "shutdown": time.perf_counter() - ending,
    }


@asynccontextmanager
async def _kernelproto(kernel_type: str) -> AsyncGenerator[Execute]:
    async with run_kernel(kernel_type) as kernel:

        async def execute(code: str) -> int:
            return len((await kernel.execute(code)).outputs)

        yield execute


@asynccontextmanager
async def _jupyter_client(kernel_type: str) -> AsyncGenerator[Execute]:
    # By name: whoever does not measure needs none of it.
    manager_type: Any = importlib.import_module("jupyter_client.manager").AsyncKernelManager
    name = kernel_type.partition("/")[2] if kernel_type.startswith("spec/") else "python3"
    manager = manager_type(kernel_name=name)
    nowhere = os.open(os.devnull, os.O_WRONLY)  # for what its kernels write as they start
    try:
        await manager.start_kernel(stdout=nowhere, stderr=nowhere)
    finally:
        os.close(nowhere)
    try:
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=60)

            async def execute(code: str) -> int:
                outputs: list[str] = []

                def note(message: Mapping[str, Any]) -> None:
                    if message["msg_type"] in ("display_data", "execute_result"):
                        outputs.append(message["msg_type"])

                await client.execute_interactive(code, output_hook=note, allow_stdin=False)
                return len(outputs)

            yield execute
        finally:
            client.stop_channels()
    finally:
        await manager.shutdown_kernel()


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
