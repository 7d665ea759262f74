"""Four times as many items take at most five times as many steps.

Steps are bytecode instructions, which are the same in each run. What C code does in one step is
measured by ``python -m benchmarks growth``.
"""

from __future__ import annotations

import pytest

from benchmarks.questions.growth import WORK
from tests.steps import count_steps

FEW = 200


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
