"""What the log records of a task are about."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.log_fields import log_fields, logging_about


def test_blocks_add_up() -> None:
    with logging_about(user="ada", kernel_id="1"):
        with logging_about(kernel_id="2"):
            assert log_fields() == {"user": "ada", "kernel_id": "2"}
        assert log_fields() == {"user": "ada", "kernel_id": "1"}
    assert log_fields() == {}


@pytest.mark.anyio
async def test_tasks_inherit_it_and_do_not_share_it() -> None:
    seen: dict[str, dict[str, str]] = {}

    async def work(user: str) -> None:
        with logging_about(user=user):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(look, user)

    async def look(user: str) -> None:
        await checkpoint()
        seen[user] = dict(log_fields())

    with logging_about(kernel_id="1"):
        async with anyio.create_task_group() as tasks:
            for user in ("ada", "bob"):
                tasks.start_soon(work, user)
    assert seen == {user: {"kernel_id": "1", "user": user} for user in ("ada", "bob")}
