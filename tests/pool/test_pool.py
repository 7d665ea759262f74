"""The pool as its users see it, with kernels that are no processes."""

from __future__ import annotations

import uuid
from contextlib import suppress

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from kernelproto import (
    ClientClosed,
    InvalidLaunchParameter,
    Kernel,
    KernelDied,
    KernelFinder,
    KernelPool,
    LaunchError,
    NoSuchKernel,
    OutputOverflow,
    PoolError,
    PoolFull,
    QuotaExceeded,
    Restarted,
)
from kernelproto.pool import LeaseLimits, plan
from kernelproto.testing import Exchange, FakeProvider
from kernelproto.wire.content import Status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def start_working(tasks: TaskGroup, kernel: Kernel) -> None:
    """Have a kernel work until it ends; return when it is known to."""

    async def work() -> None:
        with suppress(ClientClosed, KernelDied):  # or it is interrupted before it ends
            await kernel.execute("work")

    async with kernel.client.messages(msg_types=("execute_input",)) as messages:
        tasks.start_soon(work)
        await anext(messages)


async def next_moment() -> None:
    """Wait until the clock has moved on: uvloop's does so once in a millisecond."""
    now = anyio.current_time()
    while anyio.current_time() == now:
        await checkpoint()


async def fail_to_get(pool: KernelPool, user: str, why: str) -> None:
    with pytest.raises(PoolError, match=why):
        await pool.get(user, wait=True)


async def test_each_user_has_a_kernel_of_their_own(pool_of) -> None:
    async with pool_of() as (pool, provider):
        ada = await pool.get("ada")
        bob = await pool.get("bob")
        assert (await ada.execute("6 * 7")).text == "42"
        assert ada is not bob
        assert await pool.get("ada") is ada
        assert len(provider.kernels) == 2
        assert [(kernel.user, kernel.kernel_id) for kernel in pool.kernels()] == [
            ("ada", ada.kernel_id),
            ("bob", bob.kernel_id),
        ]
    assert provider.alive == 0
    assert pool.kernels() == []


async def test_concurrent_requests_get_the_same_kernel(pool_of) -> None:
    kernels = []

    async def get(pool: KernelPool) -> None:
        kernels.append(await pool.get("ada"))

    async with pool_of() as (pool, provider):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(get, pool)
        assert len(kernels) == 20
        assert len(set(kernels)) == len(provider.kernels) == 1


async def test_cancelled_request_does_not_affect_others(pool_of) -> None:
    proceed, begun = anyio.Event(), anyio.Event()

    async def launching() -> None:
        begun.set()
        await proceed.wait()

    async with pool_of() as (pool, provider), anyio.create_task_group() as tasks:
        provider.launching = launching
        kernels = []

        async def get() -> None:
            kernels.append(await pool.get("ada"))

        async with anyio.create_task_group() as first:
            first.start_soon(get)
            await begun.wait()
            tasks.start_soon(get)
            await anyio.wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        assert kernels == []
        assert pool.kernels()[0].state == "starting"
        proceed.set()
        kernels.append(await pool.get("ada"))
        await anyio.wait_all_tasks_blocked()
        assert len(kernels) == 2
        assert len(set(kernels)) == len(provider.kernels) == 1


async def test_kernel_starts_although_its_request_was_cancelled(pool_of) -> None:
    async with pool_of() as (pool, provider):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await pool.get("ada")
        assert scope.cancelled_caught
        kernel = await pool.get("ada")
        assert len(provider.kernels) == 1
        assert (await kernel.execute("6 * 7")).text == "42"


async def test_longest_idle_kernel_makes_room(pool_of) -> None:
    async with pool_of(max_kernels=2) as (pool, provider):
        ada, bob = [await pool.get(user) for user in ("ada", "bob")]
        await next_moment()
        await ada.execute("6 * 7")
        eve = await pool.get("eve")
        assert [kernel.user for kernel in pool.kernels()] == ["ada", "eve"]
        assert provider.alive == 2
        with pytest.raises(ClientClosed, match=r"evicted: .* another kernel needed its") as caught:
            await bob.execute("6 * 7")
        assert caught.value.ended == "evicted"
        bob_again = await pool.get("bob")
        assert bob_again.kernel_id != bob.kernel_id
        assert [kernel.user for kernel in pool.kernels()] == ["eve", "bob"]
        assert eve.state == "idle"
        assert pool.counts == {"started": 4, "evicted": 2}


async def test_full_when_all_work_or_are_connected(pool_of) -> None:
    async with (
        pool_of(max_kernels=2) as (pool, _),
        anyio.create_task_group() as tasks,
        pool.connection("ada"),
    ):
        bob = await pool.get("bob")
        await start_working(tasks, bob)
        with pytest.raises(PoolFull, match=r"2 of 2 kernels.*none idle.*wait=True") as caught:
            await pool.get("eve")
        assert caught.value.limit == 2
        assert [kernel.user for kernel in pool.kernels()] == ["ada", "bob"]
        assert await pool.get("bob") is bob
        assert pool.counts["refused"] == pool.counts["full"] == 1
        assert pool.limits.max_kernels == 2
        assert pool.waiting == 0
        await pool.release("bob")
        assert (await (await pool.get("eve")).execute("6 * 7")).text == "42"


async def test_full_while_all_are_starting(pool_of) -> None:
    proceed = anyio.Event()
    async with pool_of(max_kernels=1) as (pool, provider), anyio.create_task_group() as tasks:
        provider.launching = proceed.wait
        tasks.start_soon(pool.get, "ada")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(PoolFull):
            await pool.get("bob")
        proceed.set()


async def test_kernel_that_was_just_asked_for_something_is_not_idle(pool_of) -> None:
    """Its own word that it is busy takes a while to come."""
    async with pool_of(max_kernels=1) as (pool, provider), anyio.create_task_group() as tasks:
        ada = await pool.get("ada")
        provider.kernels[0].deaf.add("shell")
        tasks.start_soon(ada.request, "execute_request", {"code": "1"})
        await anyio.wait_all_tasks_blocked()
        assert ada.state == "idle"
        with pytest.raises(PoolFull):
            await pool.get("bob")
        tasks.cancel_scope.cancel()
    assert tasks.cancel_scope.cancel_called


async def test_waiting_for_room(pool_of, monkeypatch) -> None:
    monkeypatch.setattr(plan, "SETTLED_SECONDS", 0.01)
    served = []

    async def get(pool: KernelPool, user: str) -> None:
        async with pool.connection(user, wait=True) as connection:
            served.append(user)
            await connection.kernel.execute("6 * 7")

    async with (
        pool_of(max_kernels=1) as (pool, provider),
        anyio.create_task_group() as tasks,
        pool.connection("ada"),
    ):
        for user in ("bob", "eve", "kim"):
            tasks.start_soon(get, pool, user)
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(PoolFull, match="3 ahead in the queue"):
            await pool.get("joe")
        assert served == []
        await pool.release("ada")
    assert served == ["bob", "eve", "kim"]
    assert provider.alive == 0


async def test_waiting_request_gets_the_slot_of_an_idle_kernel(pool_of, monkeypatch) -> None:
    monkeypatch.setattr(plan, "SETTLED_SECONDS", 0.01)
    finish = anyio.Event()

    async def set_when_all_wait() -> None:
        await anyio.wait_all_tasks_blocked()
        finish.set()

    async def until_finish(exchange: Exchange) -> None:
        await finish.wait()

    async with pool_of(max_kernels=1) as (pool, provider), anyio.create_task_group() as tasks:
        ada = await pool.get("ada")
        provider.kernels[0].on_execute("finish", until_finish)
        async with ada.execute("finish") as execution:
            tasks.start_soon(set_when_all_wait)
            bob = await pool.get("bob", wait=True)
            assert (await execution).status == "ok"
        assert ada.state == "dead"
        assert bob.state == "idle"


async def test_cancelled_request_leaves_the_queue(pool_of) -> None:
    async with pool_of(max_kernels=1) as (pool, provider), pool.connection("ada"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: pool.get("bob", wait=True))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await pool.release("ada")
        assert pool.kernels() == []
        assert len(provider.kernels) == 1


async def test_kernels_under_several_names(pool_of) -> None:
    async with pool_of(max_per_user=2) as (pool, _):
        first = await pool.get("ada")
        second = await pool.get("ada", name="second")
        assert first is not second
        assert await pool.get("ada", name="second") is second
        with pytest.raises(QuotaExceeded, match=r"'ada'.* 2.*max_per_user") as caught:
            await pool.get("ada", name="third", wait=True)
        assert caught.value.limit == 2
        assert [kernel.name for kernel in pool.kernels("ada")] == ["default", "second"]
        assert pool.kernels("bob") == []
        await pool.release("ada")
        assert await pool.get("ada", name="third")
        assert second.state == "idle"


async def test_request_replaces_a_kernel_of_its_user(pool_of) -> None:
    async with pool_of(max_kernels=2, max_per_user=2) as (pool, _):
        first = await pool.get("ada", name="a")
        second = await pool.get("ada", name="b", replaces="a")
        assert pool.counts["released"] == 0
        async with pool.connection("ada", name="a"), pool.connection("ada", name="b"):
            third = await pool.get("ada", name="c", replaces="a")
        assert [kernel.name for kernel in pool.kernels()] == ["b", "c"]
        assert second.state == third.state == "idle"
        with pytest.raises(ClientClosed, match="released"):
            await first.execute("1")


async def test_release(pool_of) -> None:
    async with pool_of() as (pool, provider), anyio.create_task_group() as tasks:
        async with pool.connection("ada") as connection:
            await start_working(tasks, connection.kernel)
            assert await pool.release("ada")
            assert provider.alive == 0
            assert pool.kernels() == []
            with pytest.raises(ClientClosed, match="released") as caught:
                async for _ in connection.messages:
                    pass
            assert caught.value.ended == "released"
        assert not await pool.release("ada")
        assert not await pool.release("bob")
        assert (await pool.get("ada")).kernel_id != connection.kernel.kernel_id


async def test_release_of_a_kernel_that_is_starting(pool_of) -> None:
    async with pool_of() as (pool, provider), anyio.create_task_group() as tasks:
        provider.launching = anyio.sleep_forever

        @tasks.start_soon
        async def get() -> None:
            with pytest.raises(PoolError, match="ended while it was being started"):
                await pool.get("ada")

        await anyio.wait_all_tasks_blocked()
        assert await pool.release("ada")
        provider.launching = checkpoint
        assert (await (await pool.get("ada")).execute("6 * 7")).text == "42"


async def test_cancelled_release_goes_on(pool_of) -> None:
    async with pool_of() as (pool, provider):
        await pool.get("ada")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await pool.release("ada")
        await provider.kernels[0].wait()


async def test_interrupt(pool_of) -> None:
    async with pool_of() as (pool, _), anyio.create_task_group() as tasks:
        await (await pool.get("bob")).execute("6 * 7")
        ada = await pool.get("ada")
        async with ada.client.messages(msg_types=("execute_input",)) as messages:

            @tasks.start_soon
            async def work() -> None:
                result = await ada.execute("work")
                assert result.error.ename == "KeyboardInterrupt"

            await anext(messages)
        await pool.interrupt("ada")


async def test_restart(pool_of) -> None:
    async with pool_of() as (pool, provider):
        kernel = await pool.get("ada")
        (before,) = pool.kernels()
        await pool.restart("ada")
        (after,) = pool.kernels()
        assert len(provider.kernels) == 2
        assert await pool.get("ada") is kernel
        assert (after.kernel_id, after.started_at) == (before.kernel_id, before.started_at)
        assert after.last_activity > before.last_activity
        assert pool.counts == {"started": 1, "restarted": 1}


@pytest.mark.parametrize("verb", ["interrupt", "restart"])
async def test_call_on_a_missing_kernel(pool_of, verb: str) -> None:
    async with pool_of() as (pool, _):
        await pool.get("bob")
        with pytest.raises(PoolError, match="'ada' has no kernel 'default'"):
            await getattr(pool, verb)("ada")


@pytest.mark.parametrize("verb", ["interrupt", "restart"])
async def test_kernel_that_is_starting_is_waited_for(pool_of, verb: str) -> None:
    async with pool_of() as (pool, _), anyio.create_task_group() as tasks:
        tasks.start_soon(pool.get, "ada")
        await checkpoint()
        while not pool.kernels():
            await checkpoint()
        assert pool.kernels()[0].state == "starting"
        await getattr(pool, verb)("ada")
        assert pool.kernels()[0].state == "idle"


async def test_kernel_that_dies_is_restarted_without_effect_on_others(pool_of) -> None:
    async with pool_of() as (pool, provider):
        ada = await pool.get("ada")
        bob = await pool.get("bob")
        events = ada.events()
        async with pool.connection("ada", msg_types=("stream",)) as connection:
            provider.kernels[0].die()
            while not isinstance(await anext(events), Restarted):
                pass
            assert await pool.get("ada") is ada
            await ada.execute("say hello")
            message, _ = await anext(connection.messages)
            assert message.content.text == "hello"
        assert bob.state == "idle"
        assert pool.kernels("bob")[0].kernel_id == bob.kernel_id
        assert pool.counts == {"started": 2, "restarted": 1}


async def test_failed_start_fails_all_requests_and_is_tried_again(pool_of) -> None:
    errors = []

    async def fail() -> None:
        await anyio.wait_all_tasks_blocked()
        raise LaunchError("not today")

    async def get(pool: KernelPool) -> None:
        with pytest.raises(LaunchError, match="not today") as caught:
            await pool.get("ada")
        errors.append(caught.value)

    async with pool_of(max_kernels=2) as (pool, provider):
        bob = await pool.get("bob")
        provider.launching = fail
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(get, pool)
        assert len(set(errors)) == 3
        assert pool.counts == {"started": 2, "failed": 1}
        assert [kernel.user for kernel in pool.kernels()] == ["bob"]
        provider.launching = checkpoint
        ada = await pool.get("ada")
        assert (await ada.execute("6 * 7")).text == "42"
        assert bob.state == "idle"


async def test_unknown_kernel_type(pool_of) -> None:
    async with pool_of() as (pool, _):
        with pytest.raises(NoSuchKernel, match="fake/kernel"):
            await pool.get("ada", kernel_type="fake/other")
        assert pool.kernels() == []


async def test_kernel_type_belongs_to_the_lease(pool_of) -> None:
    class Other(FakeProvider):
        id = "other"

    async with (
        FakeProvider() as fake,
        Other() as other,
        KernelPool(finder=KernelFinder([fake, other]), kernel_type="fake/kernel") as pool,
    ):
        ada = await pool.get("ada", kernel_type="other/kernel")
        assert await pool.get("ada") is ada
        assert pool.kernels()[0].kernel_type == "other/kernel"
        assert (len(fake.kernels), len(other.kernels)) == (0, 1)
        with pytest.raises(PoolError, match="'other/kernel', not 'fake/kernel': release it"):
            await pool.get("ada", kernel_type="fake/kernel")


async def test_kernel_type_is_that_of_the_oldest_request(pool_of) -> None:
    async with (
        pool_of(max_kernels=1) as (pool, _),
        anyio.create_task_group() as tasks,
        pool.connection("ada"),
    ):
        tasks.start_soon(lambda: pool.get("bob", wait=True))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(PoolError, match="has the type 'fake/kernel', not 'fake/other'"):
            await pool.get("bob", kernel_type="fake/other", wait=True)
        tasks.cancel_scope.cancel()


async def test_kernel_type_may_change_after_a_release(pool_of) -> None:
    """Also while what was begun of the other one is still in the way."""
    give_up = anyio.Event()

    async def dawdle() -> None:
        with anyio.CancelScope(shield=True):
            await give_up.wait()

    async with pool_of() as (pool, provider), anyio.create_task_group() as tasks:
        provider.launching = dawdle
        tasks.start_soon(fail_to_get, pool, "ada", "ended while it was being started")
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(pool.release, "ada")
        await anyio.wait_all_tasks_blocked()

        @tasks.start_soon
        async def get_another() -> None:
            with pytest.raises(NoSuchKernel):
                await pool.get("ada", kernel_type="fake/other")

        await anyio.wait_all_tasks_blocked()
        give_up.set()


async def test_invalid_options_affect_no_other_request(pool_of) -> None:
    async with pool_of(max_kernels=1) as (pool, _):
        with pytest.raises(InvalidLaunchParameter, match="env"):
            await pool.get("ada", launch_params={"env": 5}, env={"A": "1"})
        with pytest.raises(TypeError):
            await pool.get("ada", cwd=5)
        assert (await (await pool.get("bob")).execute("6 * 7")).text == "42"


async def test_options_of_the_pool_and_of_a_kernel(pool_of, tmp_path) -> None:
    params = {"env": {"A": "pool", "B": "pool"}}
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    async with pool_of(cwd=home, env={"C": "pool"}, launch_params=params) as (pool, provider):
        await pool.get("ada")
        await pool.get("bob", cwd=away, env={"B": "bob"})
        await pool.get("eve", launch_params={"transport": "tcp"})
        ada, bob, eve = provider.kernels
        assert (ada.cwd, ada.env) == (str(home), {"A": "pool", "B": "pool", "C": "pool"})
        assert (bob.cwd, bob.env) == (str(away), {"A": "pool", "B": "bob", "C": "pool"})
        assert (eve.connection_info.transport, eve.env) == ("tcp", {"C": "pool"})


async def test_connection_has_the_messages_of_one_kernel(pool_of) -> None:
    async with (
        pool_of() as (pool, _),
        pool.connection("ada", msg_types=("stream",)) as ada,
        pool.connection("ada", channels=("shell",)) as ada_too,
        pool.connection("bob", msg_types=("stream",), limit=3_000) as bob,
    ):
        assert ada.kernel is ada_too.kernel
        assert [(k.user, k.connections) for k in pool.kernels()] == [("ada", 2), ("bob", 1)]
        for number in range(10):
            await bob.kernel.execute(f"say bob {number}")
            await ada.kernel.execute(f"say ada {number}")
        seen = [(await anext(ada.messages))[0].content.text for _ in range(10)]
        assert seen == [f"ada {number}" for number in range(10)]
        assert (await anext(ada_too.messages))[0].msg_type == "execute_reply"
        assert (await anext(bob.messages))[0].content.text == "bob 0"
        with pytest.raises(OutputOverflow):
            [message async for message in bob.messages]


async def test_connection_ends_with_its_block(pool_of) -> None:
    async with pool_of(max_kernels=1) as (pool, _):
        with pytest.raises(ValueError, match="mine"):
            async with pool.connection("ada"):
                raise ValueError("mine")
        with anyio.CancelScope() as scope:
            async with pool.connection("ada"):
                scope.cancel()
                await checkpoint()
        assert pool.kernels()[0].connections == 0
        assert await pool.get("bob")


async def test_idle_kernel_is_culled_and_no_other(pool_of) -> None:
    async with (
        pool_of(idle_timeout=0.05) as (pool, provider),
        anyio.create_task_group() as tasks,
        pool.connection("ada"),
    ):
        await start_working(tasks, await pool.get("bob"))
        await pool.get("eve")
        await provider.kernels[2].wait()  # the youngest: the others would have gone before
        assert [kernel.user for kernel in pool.kernels()] == ["ada", "bob"]
        assert pool.counts == {"started": 3, "culled": 1}
        assert (await (await pool.get("eve")).execute("6 * 7")).text == "42"
        tasks.cancel_scope.cancel()


async def test_kernel_is_culled_after_its_last_client_has_left(pool_of) -> None:
    async with pool_of(idle_timeout=0.02) as (pool, provider):
        async with pool.connection("ada"), pool.connection("ada"):
            pass
        await provider.kernels[0].wait()
        assert pool.kernels() == []


async def test_client_that_only_reconnects_does_not_keep_a_kernel(pool_of) -> None:
    async with pool_of(idle_timeout=0.02) as (pool, provider):
        async with pool.connection("ada"):
            pass
        while provider.kernels[0].returncode is None:
            with suppress(ClientClosed, PoolError):
                async with pool.connection("ada"):
                    await checkpoint()
            await anyio.sleep(0.005)
        assert pool.counts["culled"] == 1


@pytest.mark.parametrize(
    ("options", "reason", "count"),
    [
        ({"idle_timeout": 0.02, "cull_connected": True}, "culled: it was idle", "culled"),
        ({"max_age": 0.02}, r"expired: it reached its maximum age; get\(\)", "expired"),
    ],
)
async def test_kernel_ends_under_its_client(pool_of, options, reason: str, count: str) -> None:
    async def listen(pool: KernelPool) -> None:
        async with pool.connection("ada") as connection:
            async for _ in connection.messages:
                pass

    async with pool_of(**options) as (pool, _):
        with pytest.raises(ClientClosed, match=reason):
            await listen(pool)
        assert pool.kernels() == []
        assert pool.counts == {"started": 1, count: 1}


async def test_kernel_has_the_limits_of_its_request(pool_of) -> None:
    two = LeaseLimits(max_per_user=2)
    async with pool_of() as (pool, provider):
        for name in ("one", "two"):
            await pool.get("ada", name=name, lease_limits=two)
        with pytest.raises(QuotaExceeded, match="2 kernels") as caught:
            await pool.get("ada", name="three", lease_limits=two)
        assert caught.value.limit == 2
        await pool.get("bob", lease_limits=LeaseLimits(idle_timeout=0.02))
        await provider.kernels[2].wait()


async def test_housekeeping_is_no_activity(pool_of) -> None:
    async with pool_of() as (pool, _):
        ada = await pool.get("ada")
        (before,) = pool.kernels()
        await ada.kernel_info()
        await ada.comm_info()
        await ada.interrupt()
        assert pool.kernels() == [before]
        await ada.execute("6 * 7")
        assert pool.kernels()[0].last_activity > before.last_activity


async def test_description_of_a_kernel_has_its_end(pool_of) -> None:
    async with pool_of(idle_timeout=1000) as (pool, provider):
        provider.launching = anyio.sleep_forever
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.get, "ada")
            await anyio.wait_all_tasks_blocked()
            assert pool.kernels()[0].end is None
            tasks.cancel_scope.cancel()
    async with pool_of(idle_timeout=1000, max_age=5000) as (pool, _):
        ada = await pool.get("ada")
        (kernel,) = pool.kernels()
        assert kernel.end is not None
        assert (kernel.end.reason, kernel.end.limit) == ("culled", 1000)
        left = kernel.end.at - kernel.last_activity
        assert left.total_seconds() >= 1000
        assert pool.kernels() == [kernel]  # the same moment, whenever one looks
        async with pool.connection("ada"):
            (connected,) = pool.kernels()
            assert connected.end is not None
            assert (connected.end.reason, connected.end.limit) == ("expired", 5000)
        await ada.execute("6 * 7")
        (used,) = pool.kernels()
        assert used.end is not None
        assert used.end.at > kernel.end.at


async def test_warm_kernels_are_handed_out(pool_of) -> None:
    async with pool_of(warm=2, launch_params={"env": {"A": "1"}}) as (pool, provider):
        while len(provider.kernels) < 2:
            await checkpoint()
        await anyio.wait_all_tasks_blocked()
        ada = await pool.get("ada")
        bob = await pool.get("bob", env={"B": "2"})
        spare, _, *others = provider.kernels
        assert ada.connection_info == spare.connection_info
        assert bob.connection_info in [fake.connection_info for fake in others]
        assert [kernel.user for kernel in pool.kernels()] == ["ada", "bob"]
    assert provider.alive == 0


class MyError(Exception):
    pass


@pytest.mark.parametrize("how", ["end", "exception", "cancellation"])
async def test_leaving_the_block_ends_all_kernels_in_any_state(pool_of, how: str) -> None:
    closed = anyio.Event()

    async def stay_connected(pool: KernelPool) -> None:
        async with pool.connection("bob"):
            await closed.wait()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope, suppress(MyError):
            async with pool_of(max_kernels=3) as (pool, provider):
                await start_working(tasks, await pool.get("ada"))
                tasks.start_soon(stay_connected, pool)
                await anyio.wait_all_tasks_blocked()
                provider.launching = anyio.sleep_forever
                tasks.start_soon(fail_to_get, pool, "eve", "ended while it was being started")
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(fail_to_get, pool, "kim", "closed")
                await anyio.wait_all_tasks_blocked()
                if how == "exception":
                    raise MyError
                if how == "cancellation":
                    scope.cancel()
                    await checkpoint()
        assert provider.alive == 0
        assert pool.kernels() == []
        closed.set()
    assert len(provider.kernels) == 2


async def test_pool_outside_its_block(pool_of) -> None:
    async with pool_of() as (pool, _):
        ada = await pool.get("ada")
    with pytest.raises(ClientClosed):
        await ada.execute("6 * 7")
    with pytest.raises(PoolError, match="async with KernelPool"):
        await pool.get("ada")
    assert not await pool.release("ada")


@pytest.mark.parametrize("option", ["max_kernels", "max_per_user", "idle_timeout", "max_age"])
async def test_invalid_limits(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        KernelPool(**{option: 0})


async def test_id_can_be_chosen_and_looked_up(pool_of) -> None:
    chosen = str(uuid.uuid4())
    async with pool_of() as (pool, _):
        assert pool.find(chosen, user="ada") is None
        for user in ("ada", "bob"):  # each has ids of their own
            kernel = await pool.get(user, kernel_id=chosen)
            assert kernel.kernel_id == chosen
            found = pool.find(chosen, user=user)
            assert found is not None
            assert found.user == user
        everyone = pool.kernels(kernel_id=chosen)
        assert [kernel.user for kernel in everyone] == ["ada", "bob"]
        assert [kernel.user for kernel in pool.kernels("bob", kernel_id=chosen)] == ["bob"]
        assert pool.kernels(kernel_id="unknown") == []
        assert await pool.release("ada")
        assert pool.kernels(kernel_id=chosen) == everyone[1:]


async def test_readiness_check_does_not_make_a_kernel_busy(pool_of) -> None:
    async with pool_of() as (pool, provider), anyio.create_task_group() as tasks:
        kernel = await pool.get("ada")
        (fake,) = provider.kernels
        question = await fake.wait_for("kernel_info_request")
        async with kernel.client.messages(msg_types=("status",)) as messages:
            fake.publish(Status("busy"), parent=question)
            await anext(messages)
        assert kernel.state == pool.kernels()[0].state == "idle"
        fake.publish(Status("idle"), parent=question)
        await start_working(tasks, kernel)
        assert pool.kernels()[0].state == "busy"
        await pool.release("ada")
