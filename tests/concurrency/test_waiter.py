from __future__ import annotations

import anyio
import pytest

from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import KernelDied

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("value", ["text", 0, False, ""], ids=repr)
async def test_the_value_may_come_before_the_wait(value) -> None:
    waiter = Waiter()
    assert not waiter.is_set
    waiter.set(value)
    assert waiter.is_set
    assert await waiter.wait() == value
    assert await waiter.wait() == value


async def test_all_waiting_tasks_get_the_value(start) -> None:
    waiter = Waiter()
    calls = [await start(waiter.wait) for _ in range(3)]
    assert not any(call.ended for call in calls)
    waiter.set("value")
    assert [await call.result() for call in calls] == ["value"] * 3


async def test_all_waiting_tasks_raise_a_copy_of_the_exception(start) -> None:
    waiter = Waiter()
    calls = [await start(waiter.wait) for _ in range(3)]
    error = KernelDied("gone", returncode=-9)
    waiter.fail(error)
    assert waiter.is_set
    copies = [await call.failure() for call in calls]
    assert {(type(copy), str(copy), copy.returncode) for copy in copies} == {
        (KernelDied, "gone", -9)
    }
    assert len({id(copy) for copy in [error, *copies]}) == 4
    assert error.__traceback__ is None


async def test_only_the_first_counts() -> None:
    succeeded, failed = Waiter(), Waiter()
    succeeded.set("first")
    succeeded.set("second")
    succeeded.fail(ValueError("late"))
    assert await succeeded.wait() == "first"
    failed.fail(ValueError("first"))
    failed.fail(ValueError("second"))
    failed.set("late")
    with pytest.raises(ValueError, match="first"):
        await failed.wait()


async def test_a_cancelled_wait_changes_nothing(start) -> None:
    waiter = Waiter()
    call = await start(waiter.wait)
    await call.cancel()
    waiter.set("value")
    assert await waiter.wait() == "value"


async def test_wait_with_a_timeout() -> None:
    with anyio.move_on_after(0) as scope:
        await Waiter().wait()
    assert scope.cancelled_caught
