"""Four times as many items take at most five times as many steps.

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
    """Return the number of bytecode instructions of *work*."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.collect()
    gc.disable()  # a collection may run finalizers
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
def test_steps_grow_linearly(name: str) -> None:
    _, prepare = WORK[name]
    prepare(FEW)()  # do one-time work first
    few, many = count_steps(prepare(FEW)), count_steps(prepare(4 * FEW))
    assert many <= 5 * few
