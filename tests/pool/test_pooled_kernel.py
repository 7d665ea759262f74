from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import anyio
import pytest

from kernelproto import ClientClosed, PoolError, Timeouts
from kernelproto.pool.places import Lease
from kernelproto.pool.pooled_kernel import Member
from kernelproto.testing import FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

ADA = Lease("ada", "default")
KERNEL_ID = "8d2a6a02-5d3c-4e0e-9d0a-0f6a4e1a7c11"


def member_of(lease: Lease, changes: list[tuple[bool, bool]] | None = None) -> Member:
    def on_change(member: Member) -> None:
        if changes is not None:
            changes.append((member.busy, member.dead))

    return Member(
        1,
        lease,
        "fake/kernel",
        kernel_id=KERNEL_ID,
        counts=Counter(),
        deaths=Counter(),
        on_change=on_change,
    )


async def test_life() -> None:
    changes: list[tuple[bool, bool]] = []
    begun_at = datetime.now(UTC)
    member = member_of(ADA, changes)
    async with FakeProvider() as fakes, anyio.create_task_group() as tasks:
        assert (member.running, member.look()) == (False, False)
        assert member.describe(0).state == "starting"
        launch = lambda **changes: fakes.launch("kernel")  # noqa: E731
        tasks.start_soon(member.serve, launch, None, Timeouts(), None)
        kernel = await member.ready.wait()
        assert changes == [(False, False)]
        assert kernel.kernel_id == member.kernel_id == KERNEL_ID

        await kernel.execute("1")
        assert changes == [(False, False), (True, False), (False, False)]
        model = member.describe(7)
        assert (model.user, model.name, model.kernel_type) == ("ada", "default", "fake/kernel")
        assert (model.state, model.connections) == ("idle", 7)
        assert begun_at <= model.started_at <= model.last_activity <= datetime.now(UTC)

        member.end(ClientClosed("it was ended"))
        await member.gone.wait()
        assert changes[-1] == (False, True)
        assert member.describe(0).state == "dead"
        assert fakes.kernels[0].returncode == 0


async def test_death_is_told() -> None:
    changes: list[tuple[bool, bool]] = []
    member = member_of(ADA, changes)
    async with FakeProvider() as fakes, anyio.create_task_group() as tasks:
        launch = lambda **changes: fakes.launch("kernel")  # noqa: E731
        tasks.start_soon(member.serve, launch, None, Timeouts(), None)
        kernel = await member.ready.wait()
        async with kernel.client.messages() as messages:
            fakes.kernels[0].die()
            with pytest.raises(Exception, match="died"):
                await anext(messages)
        assert changes[-1] == (False, True)
        member.end(ClientClosed("it was ended"))


async def test_end_before_it_began() -> None:
    member = member_of(ADA)
    async with FakeProvider() as fakes:
        member.end(ClientClosed("it was ended"))
        await member.serve(lambda **changes: fakes.launch("kernel"), None, Timeouts(), None)
        assert fakes.kernels == []
    with pytest.raises(PoolError, match="kernel 'default' of 'ada'"):
        await member.ready.wait()


async def test_bug_of_somebody_else_is_logged_in_full(caplog) -> None:
    async def launch(**changes):
        raise ZeroDivisionError

    member = member_of(ADA)
    await member.serve(launch, None, Timeouts(), None)
    assert "could not be started" in caplog.text
    assert "Traceback" in caplog.text
    with pytest.raises(ZeroDivisionError):
        await member.ready.wait()


async def test_kernel_that_cannot_be_watched_is_ended(caplog) -> None:
    """Its death would never be noticed."""
    member = member_of(ADA)
    async with FakeProvider() as fakes, anyio.create_task_group() as tasks:
        fail = anyio.Event()

        async def launch(**changes):
            info, manager = await fakes.launch("kernel")

            async def wait():
                await fail.wait()
                raise OSError("the manager is broken")

            manager.wait = wait
            return info, manager

        tasks.start_soon(member.serve, launch, None, Timeouts(), None)
        await member.ready.wait()
        fail.set()
        await member.gone.wait()
        assert "has failed: the manager is broken" in caplog.text
        assert fakes.kernels[0].returncode is not None
