from __future__ import annotations

import math

import pytest

from kernelproto.pool.limits import LeaseLimits, PoolLimits


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_kernels": 0}, "max_kernels must be at least 1, not 0"),
        ({"max_per_user": -1}, "max_per_user must be at least 1, not -1"),
        ({"idle_timeout": 0}, "idle_timeout must be None or a positive number of seconds"),
        ({"max_age": math.nan}, "max_age must be None or a positive number of seconds"),
    ],
)
def test_limits_without_any_kernel_are_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoolLimits(**limits)


def test_limits_may_be_absent() -> None:
    assert LeaseLimits(idle_timeout=None, max_age=None).idle_timeout is None
