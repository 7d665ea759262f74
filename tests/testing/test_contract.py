from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from kernelproto.testing.contract import promised, require, require_type

GUARD_SECONDS = 60


@pytest.mark.anyio
async def test_what_is_kept_passes() -> None:
    with promised("it works", GUARD_SECONDS):
        await anyio.lowlevel.checkpoint()
        require(True, "it works")
        require_type(1, int | str, "it works")


@pytest.mark.anyio
async def test_an_exception_is_a_breach() -> None:
    with pytest.raises(AssertionError) as caught, promised("it works", GUARD_SECONDS):
        raise KeyError("x")
    assert str(caught.value) == "broken promise: it works: it raised KeyError('x')"
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.anyio
async def test_time_that_is_up_is_a_breach() -> None:
    with pytest.raises(AssertionError, match="it works: not within 0 s"), promised("it works", 0):
        await anyio.sleep_forever()


@pytest.mark.anyio
async def test_the_innermost_breach_is_told() -> None:
    async def break_two_promises() -> None:
        with promised("the outer one", GUARD_SECONDS):
            async with anyio.create_task_group():
                require(False, "the inner one", 1)

    with pytest.raises(AssertionError, match="broken promise: the inner one: found 1"):
        await break_two_promises()


def test_a_wrong_type_is_a_breach() -> None:
    with pytest.raises(AssertionError, match="it is text: found b'x'"):
        require_type(b"x", str, "it is text")
