"""What waits to be sent to a client."""

from __future__ import annotations

import anyio
import pytest

from kernelproto.server.outbox import Outbox

pytestmark = pytest.mark.anyio


async def test_first_in_first_out() -> None:
    outbox = Outbox(10_000)
    assert outbox.put(b"1")
    assert outbox.put("2")
    assert [await outbox.get() for _ in range(2)] == [b"1", "2"]


async def test_refuses_what_is_too_much_until_there_is_room() -> None:
    outbox = Outbox(1000)
    assert outbox.put(b"x" * 5000)  # alone, it has room
    assert not outbox.put(b"")
    await outbox.get()
    assert outbox.put(b"x" * 300)
    assert outbox.put(b"x" * 300)
    assert not outbox.put(b"x" * 300)
    await outbox.get()
    assert outbox.put(b"x" * 300)


async def test_who_waits_gets_what_comes() -> None:
    outbox = Outbox(1000)
    got = []

    async def get() -> None:
        got.append(await outbox.get())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            await anyio.wait_all_tasks_blocked()
            outbox.put(b"1")
    assert got == [b"1"]


async def test_ends_after_what_is_in_it() -> None:
    outbox = Outbox(1000)
    outbox.put(b"1")
    outbox.end(ValueError("the end"))
    assert await outbox.get() == b"1"
    for _ in range(2):
        with pytest.raises(ValueError, match="the end"):
            await outbox.get()
