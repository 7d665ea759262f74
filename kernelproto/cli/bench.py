"""``kernelproto bench``: measures start, round trip, outputs and shutdown of a kernel type."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TypeAlias

import anyio

from kernelproto.cli.errors import CliError
from kernelproto.cli.screen import print_json, print_table
from kernelproto.cli.table import format_table
from kernelproto.run import run_kernel

_ROUND_TRIPS = 100
_OUTPUTS = 2000

_OUTPUT_CODE = f"""\
from IPython.display import display
for number in range({_OUTPUTS}):
    display(number)
"""

# Each measurement: the title, the unit, and the factor from the samples to that unit.
_MEASUREMENTS = {
    "start": ("start to first result", "ms", 1000),
    "round_trip": ("round trip of an execution", "ms", 1000),
    "outputs": ("outputs received", "per second", 1),
    "shutdown": ("shutdown", "ms", 1000),
}

Samples: TypeAlias = Mapping[str, Sequence[float]]


def run_bench(kernel_type: str, *, rounds: int, as_json: bool) -> int:
    """Measure a kernel type and print the results; return the exit status.

    Args:
        kernel_type: a kernel type for Python.
        rounds: how often to measure.
        as_json: whether to print all samples as JSON instead of a table.

    Raises:
        CliError: the kernel does not execute IPython code.
        KernelProtoError: the kernel does not start.
    """
    samples = anyio.run(_measure, kernel_type, rounds)
    if as_json:
        print_json(samples)
    else:
        print_table(format_samples(samples))
    return 0


def format_samples(samples: Samples) -> list[str]:
    """Return the lines of a table: median, minimum and maximum of each measurement.

    Args:
        samples: by measurement; times in seconds, outputs per second.
    """
    rows: list[list[str]] = []
    for name, (title, unit, factor) in _MEASUREMENTS.items():
        values = [value * factor for value in samples[name]]
        digits = 0 if factor == 1 else 1
        statistics = (median(values), min(values), max(values))
        rows.append([f"{title}, {unit}", *(f"{value:.{digits}f}" for value in statistics)])
    return format_table(("", "MEDIAN", "MIN", "MAX"), rows, right=(1, 2, 3))


async def _measure(kernel_type: str, rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in _MEASUREMENTS}
    for number in range(1, rounds + 1):
        _show_progress(f"round {number} of {rounds}")
        for name, value in (await _one_round(kernel_type)).items():
            samples[name].append(value)
    _show_progress("")
    return samples


async def _one_round(kernel_type: str) -> dict[str, float]:
    began = time.perf_counter()
    async with run_kernel(kernel_type) as kernel:
        await kernel.execute("1")
        started = time.perf_counter()
        for _ in range(_ROUND_TRIPS):
            await kernel.execute("1")
        returned = time.perf_counter()
        received = len((await kernel.execute(_OUTPUT_CODE)).outputs)
        finished = time.perf_counter()
        if received != _OUTPUTS:
            raise CliError(
                f"{kernel_type} sent {received} of {_OUTPUTS} outputs; "
                "bench needs a kernel type for Python with IPython"
            )
        ending = time.perf_counter()
    return {
        "start": started - began,
        "round_trip": (returned - started) / _ROUND_TRIPS,
        "outputs": _OUTPUTS / (finished - returned),
        "shutdown": time.perf_counter() - ending,
    }


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
