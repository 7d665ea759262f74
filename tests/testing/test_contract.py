from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from kernelproto.testing.contract import checking, require, require_type

GUARD_SECONDS = 60


@pytest.mark.anyio
async def test_fulfilled_requirement_passes() -> None:
    with checking("it works", GUARD_SECONDS):
        await anyio.lowlevel.checkpoint()
        require(True, "it works")
        require_type(1, int | str, "it works")


@pytest.mark.anyio
async def test_exception_is_a_violation() -> None:
    with pytest.raises(AssertionError) as caught, checking("it works", GUARD_SECONDS):
        raise KeyError("x")
    assert str(caught.value) == "requirement violated: it works: it raised KeyError('x')"
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.anyio
async def test_timeout_is_a_violation() -> None:
    with pytest.raises(AssertionError, match="it works: not within 0 s"), checking("it works", 0):
        await anyio.sleep_forever()


@pytest.mark.anyio
async def test_innermost_violation_is_reported() -> None:
    async def violate_two_requirements() -> None:
        with checking("the outer one", GUARD_SECONDS):
            async with anyio.create_task_group():
                require(False, "the inner one", 1)

    with pytest.raises(AssertionError, match="requirement violated: the inner one: found 1"):
        await violate_two_requirements()


def test_wrong_type_is_a_violation() -> None:
    with pytest.raises(AssertionError, match="it is text: found b'x'"):
        require_type(b"x", str, "it is text")
