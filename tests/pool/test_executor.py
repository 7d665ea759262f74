"""The ends of kernels: why they end, their records, and which slots they free."""

from __future__ import annotations

import logging
import uuid

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto import (
    KernelDied,
    LaunchError,
    PoolError,
    PoolFull,
    Reachable,
    Restarted,
    Unreachable,
)
from kernelproto.pool import executor

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_kernels_that_end_with_the_pool_are_not_lost(pool_of, caplog, cancelled) -> None:
    with caplog.at_level(logging.INFO), anyio.CancelScope() as scope:
        async with pool_of() as (pool, provider):
            await pool.get("ada")
            await pool.get("bob")
            if cancelled:
                scope.cancel()
                await checkpoint()
    assert provider.alive == 0
    assert pool.counts == {"started": 2}
    assert "lost" not in caplog.text


async def test_kernel_is_idle_at_once_when_its_only_request_was_cancelled(pool_of) -> None:
    """No message tells of that, but a request for room asks."""
    async with pool_of(max_kernels=1) as (pool, provider), anyio.create_task_group() as tasks:
        ada = await pool.get("ada")
        provider.kernels[0].deaf.add("shell")
        tasks.start_soon(ada.request, "execute_request", {"code": "1"})
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(PoolFull):
            await pool.get("bob")
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert (await pool.get("bob")).state == "idle"


async def test_death_is_logged_with_its_reason(pool_of, caplog) -> None:
    async with pool_of() as (pool, provider):
        kernel = await pool.get("ada")
        (before,) = pool.kernels()
        assert (before.last_death, before.previous_end) == (None, None)
        events = kernel.events()
        provider.kernels[0].die(-9)
        while not isinstance(await anext(events), Restarted):
            pass
        (after,) = pool.kernels()
        assert after.last_death == "signal 9 (SIGKILL)"
        assert after.previous_end == "the kernel died: signal 9 (SIGKILL)"
        assert after.process_started_at > before.process_started_at
        assert pool.deaths == {"signal": 1}
        (record,) = [r for r in caplog.records if "died" in r.getMessage()]
        assert record.levelno == logging.WARNING
        assert record.getMessage() == (
            f"the kernel 'default' of 'ada' ({kernel.kernel_id}) died: signal 9 (SIGKILL); "
            "restart 1 begins"
        )
        await pool.restart("ada")
        (restarted,) = pool.kernels()
        assert restarted.last_death == "signal 9 (SIGKILL)"
        assert restarted.previous_end == "the kernel was restarted"


async def test_previous_end_after_a_death_without_a_restart(pool_of, caplog) -> None:
    chosen = str(uuid.uuid4())
    async with pool_of(restart=None) as (pool, provider):
        kernel = await pool.get("ada", kernel_id=chosen)
        provider.kernels[0].die(1)
        with pytest.raises(KernelDied):
            await kernel.execute("work")
        assert "died: exit status 1; it stays dead" in caplog.text
        await pool.get("ada", kernel_id=chosen)
        (fresh,) = pool.kernels()
        assert fresh.previous_end == "the kernel died: exit status 1"
        assert fresh.last_death is None
        assert pool.deaths == {"exit_status": 1}


@pytest.mark.parametrize(
    ("options", "words"), [({"idle_timeout": 0.02}, "culled"), ({"max_kernels": 1}, "evicted")]
)
async def test_previous_end_after_the_end_of_an_idle_kernel(pool_of, options, words: str) -> None:
    chosen = str(uuid.uuid4())
    async with pool_of(**options) as (pool, provider):
        await pool.get("ada", kernel_id=chosen)
        if words == "evicted":
            await pool.get("bob")
        await provider.kernels[0].wait()
        async with pool.connection("ada", kernel_id=chosen):
            fresh = pool.find(chosen, user="ada")
        assert fresh is not None
        assert words in fresh.previous_end


async def test_end_is_remembered_until_a_kernel_of_the_id_was_ready(pool_of) -> None:
    chosen = str(uuid.uuid4())
    async with pool_of() as (pool, provider), anyio.create_task_group() as tasks:
        await pool.get("ada", kernel_id=chosen)
        await pool.release("ada")
        provider.launching = anyio.sleep_forever

        @tasks.start_soon
        async def get() -> None:
            with pytest.raises(PoolError, match="ended while it was being started"):
                await pool.get("ada", kernel_id=chosen)

        await anyio.wait_all_tasks_blocked()
        await pool.release("ada")
        provider.launching = checkpoint
        await pool.get("ada", kernel_id=chosen)
        (fresh,) = pool.kernels()
        assert fresh.previous_end == "the kernel was shut down"


async def test_remembered_ends_are_bounded(pool_of, monkeypatch) -> None:
    monkeypatch.setattr(executor, "_MOST_ENDS", 2)
    ids = [str(uuid.uuid4()) for _ in range(3)]
    told = []
    async with pool_of() as (pool, _):
        for chosen in [*ids, *ids[1:], ids[0]]:
            await pool.get("ada", kernel_id=chosen)
            (kernel,) = pool.kernels()
            told.append(kernel.previous_end is not None)
            await pool.release("ada")
    assert told == [False, False, False, True, True, False]


async def test_kernel_whose_restart_fails_frees_its_slot(pool_of) -> None:
    async def fail() -> None:
        raise LaunchError("no more kernels")

    async with pool_of() as (pool, provider):
        await pool.get("ada")
        provider.launching = fail
        with pytest.raises(LaunchError, match="no more kernels"):
            await pool.restart("ada")
        assert pool.kernels() == []
        provider.launching = checkpoint
        assert (await (await pool.get("ada")).execute("6 * 7")).text == "42"


@pytest.mark.parametrize("restart", [None, "policy"])
async def test_kernel_that_stays_dead_frees_its_slot(pool_of, restart) -> None:
    options = {} if restart else {"restart": None}
    async with pool_of(max_kernels=1, **options) as (pool, provider):
        async with pool.connection("ada") as connection:
            ada = connection.kernel

            async def stay_dead() -> None:
                raise LaunchError("out of kernels")

            provider.launching = stay_dead
            provider.kernels[0].die()
            with pytest.raises(KernelDied):
                async for _ in connection.messages:
                    pass
            assert pool.kernels() == []
            assert pool.counts["lost"] == 1
            (lost,) = pool.lost()
            assert (lost.kernel_id, lost.user) == (ada.kernel_id, "ada")
            assert (lost.kernel_type, lost.death) == ("fake/kernel", "signal 9 (SIGKILL)")
            assert pool.lost("ada") == [lost]
            assert pool.lost("bob") == []
        provider.launching = checkpoint
        again = await pool.get("ada")
        assert again.kernel_id != ada.kernel_id
        assert (await again.execute("6 * 7")).text == "42"


async def test_kernel_shut_down_by_its_user_frees_its_slot(pool_of) -> None:
    async with pool_of(max_kernels=1) as (pool, provider):
        ada = await pool.get("ada")
        await ada.shutdown()
        assert pool.kernels() == []
        assert pool.lost() == []  # it did not die
        assert await pool.get("ada") is not ada
        await pool.get("bob")
        assert provider.alive == 1


async def test_kernel_is_culled_after_the_last_call_stops_waiting(pool_of, monkeypatch) -> None:
    """Nothing tells of that, unlike of an answer."""
    monkeypatch.setattr(executor, "_LOOK_AGAIN_SECONDS", 0.01)
    async with pool_of(idle_timeout=0.02) as (pool, provider):
        ada = await pool.get("ada")
        provider.kernels[0].deaf.add("shell")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ada.request, "ping_request", {})
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await provider.kernels[0].wait()


async def test_unreachable_kernel_is_neither_evicted_nor_culled(pool_of) -> None:
    async with pool_of(max_kernels=1, idle_timeout=3600) as (pool, provider):
        kernel = await pool.get("ada")
        events = kernel.events()
        assert pool.kernels()[0].end is not None
        provider.kernels[0].cut("the network is down")
        assert isinstance(await anext(events), Unreachable)
        (shown,) = pool.kernels()
        assert (shown.state, shown.unreachable) == ("unreachable", "the network is down")
        assert shown.end is None
        with pytest.raises(PoolFull):
            await pool.get("bob")
        before = shown.last_activity
        provider.kernels[0].restore()
        assert isinstance(await anext(events), Reachable)
        (shown,) = pool.kernels()
        assert (shown.state, shown.unreachable) == ("idle", None)
        assert shown.last_activity > before  # it can be used again before it counts as idle
        assert shown.end is not None
        assert (await pool.get("ada")) is kernel
        assert provider.alive == 1
