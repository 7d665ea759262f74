"""Four times as much takes at most five times as many steps, of whatever a kernel chooses.

Steps are bytecode instructions, which are the same in each run. What C code does in one step is
measured by ``python -m benchmarks growth``.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from benchmarks.questions.growth import WORK

FEW = 200


def count_steps(work: Callable[[], object]) -> int:
    """Return how many bytecode instructions *work* takes."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.collect()
    gc.disable()  # what is freed meanwhile may run code of its own
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return steps


def test_steps_are_counted() -> None:
    def loop(count: int) -> None:
        for _ in range(count):
            pass

    few, many = (count_steps(lambda: loop(count)) for count in (1000, 2000))  # noqa: B023
    assert few >= 1000
    assert 1.9 < many / few < 2.1
    assert count_steps(lambda: [0 for _ in range(100) for _ in range(100)]) >= 10_000


@pytest.mark.parametrize("name", WORK)
def test_steps_grow_with_the_number_and_not_with_its_square(name: str) -> None:
    _, prepare = WORK[name]
    prepare(FEW)()  # what is done only once is done
    few, many = count_steps(prepare(FEW)), count_steps(prepare(4 * FEW))
    assert many <= 5 * few
