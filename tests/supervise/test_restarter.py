"""Restarts after a death, with fake kernels; tests/integration has real ones."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto import (
    Backoff,
    Died,
    Failed,
    KernelDied,
    KernelRestarted,
    KernelRestarter,
    Restarted,
    RestartPolicy,
)
from kernelproto.testing import FakeKernel
from tests.supervise.fakes import GUARD_SECONDS, POLICY, answering, kill, running

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def test_death_is_followed_by_a_restart(tmp_path) -> None:
    options = {"cwd": tmp_path, "env": {"NAME": "value"}}
    async with running(**options) as (kernel, provider):
        events = kernel.events()
        kernel_id, manager, client = kernel.kernel_id, kernel.manager, kernel.client
        [first] = provider.kernels
        async with kernel.execute("wait") as execution:
            await first.wait_for("execute_request")
            first.die(-9)
            with pytest.raises(KernelRestarted, match="SIGKILL") as caught:
                await execution
            assert caught.value.returncode == -9
        assert kernel.state == "restarting"

        assert (await kernel.execute("6 * 7")).text == "42"  # it has waited for the new process
        assert kernel.state == "idle"
        _, second = provider.kernels
        assert (second.cwd, second.env) == (str(tmp_path), {"NAME": "value"})
        assert kernel.connection_info == second.connection_info != first.connection_info
        assert kernel.kernel_id == kernel_id
        assert kernel.manager is not manager
        assert kernel.client is not client
        assert await anext(events) == Died(-9)
        assert await anext(events) == Restarted(True, second.connection_info, 1)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_death_ends_every_pending_call() -> None:
    told: list[type[Exception]] = []

    async def wait(request) -> None:
        with pytest.raises(KernelDied) as caught:
            await request()
        told.append(caught.type)

    async with running() as (kernel, provider):
        provider.kernels[0].deaf.update({"shell", "control", "hb"})
        async with anyio.create_task_group() as tasks:
            for request in (kernel.kernel_info, kernel.usage, kernel.client.heartbeat):
                tasks.start_soon(wait, request)
            await anyio.wait_all_tasks_blocked()
            provider.kernels[0].die()
    assert told == [KernelRestarted] * 3


async def test_restarter_gives_up_after_the_limit() -> None:
    async with running() as (kernel, provider):
        events = kernel.events()
        for attempt in range(1, 4):
            provider.kernels[-1].die(1)
            assert await anext(events) == Died(1)
            restarted = await anext(events)
            assert restarted == Restarted(True, kernel.connection_info, attempt)
        provider.kernels[-1].die(1)
        with pytest.raises(KernelDied) as caught:
            await kernel.execute("6 * 7")
        assert caught.type is KernelDied
        assert [await anext(events), await anext(events)] == [Died(1), Failed(3)]
        assert kernel.state == "dead"
        assert len(provider.kernels) == 4


async def test_stable_kernel_has_all_restarts_again() -> None:
    policy = RestartPolicy(limit=1, time_to_dead=None, stable_after=0)
    async with running(policy) as (kernel, provider):
        for _ in range(5):
            await kill(kernel, provider)
            assert (await kernel.execute("6 * 7")).text == "42"


async def test_restarts_that_fail_count() -> None:
    async def die(exchange) -> None:
        provider.kernels[-1].die(3)

    def prepare(fake: FakeKernel) -> None:
        fake.on("kernel_info_request", die)

    async with running() as (kernel, provider):
        events = kernel.events()
        provider._prepare = prepare
        await kill(kernel, provider)
        with pytest.raises(KernelDied, match="3 consecutive restarts failed"):
            await kernel.execute("6 * 7")
        assert kernel.state == "dead"
        assert [await anext(events), await anext(events)] == [Died(-9), Failed(3)]
        with pytest.raises(KernelDied, match="exit status 3"):
            await kernel.wait_for_ready()
        with pytest.raises(KernelDied, match="exit status 3"):
            await kernel.execute("6 * 7")
        provider._prepare = answering
        await kernel.restart()
        assert (await kernel.execute("6 * 7")).text == "42"


async def test_failed_launch_is_repeated(caplog) -> None:
    async def fail() -> None:
        provider.launching = checkpoint
        raise OSError("no more processes")

    async with running() as (kernel, provider):
        provider.launching = fail
        events = kernel.events()
        await kill(kernel, provider)
        assert (await kernel.execute("6 * 7")).text == "42"
        assert await anext(events) == Died(-9)
        assert await anext(events) == Restarted(True, kernel.connection_info, 2)
    assert "no more processes" in caplog.text


async def test_silent_heartbeat() -> None:
    policy = RestartPolicy(time_to_dead=0.3)
    async with running(policy) as (kernel, provider):
        [events, fake] = kernel.events(), provider.kernels[0]
        for _ in range(2):  # the restarter's first one was answered before the second of these
            await kernel.client.heartbeat()
        fake.deaf.add("hb")
        died = await anext(events)
        assert died == Died(-9, "its heartbeat was silent for 0.3 s")
        assert isinstance(await anext(events), Restarted)


async def test_kernel_without_a_heartbeat_is_not_killed() -> None:
    policy = RestartPolicy(time_to_dead=0.03)

    async def kernel_info_often() -> None:
        for _ in range(20):
            await kernel.kernel_info()
            await anyio.sleep(0.01)

    async with running(policy, lambda fake: fake.deaf.add("hb")) as (kernel, provider):
        await kernel_info_often()
        assert len(provider.kernels) == 1


async def test_restart_by_hand_does_not_wait_for_the_backoff() -> None:
    patient = RestartPolicy(
        limit=3,
        time_to_dead=None,
        stable_after=GUARD_SECONDS,
        backoff=Backoff(initial=10 * GUARD_SECONDS, maximum=10 * GUARD_SECONDS),
    )
    async with running(patient) as (kernel, provider):
        await kill(kernel, provider)
        await kernel.wait_for_ready()
        await kill(kernel, provider)
        events = kernel.events()
        assert kernel.state == "restarting"
        await kernel.restart()
        assert await anext(events) == Restarted(True, kernel.connection_info, 2)


async def test_restarter_left_during_a_restart() -> None:
    async with running(None) as (kernel, provider):
        async with KernelRestarter(kernel, POLICY):
            provider.launching = anyio.sleep_forever
            await kill(kernel, provider)
            assert kernel.state == "restarting"
        with pytest.raises(KernelDied):
            await kernel.execute("6 * 7")
        assert kernel.state == "dead"


async def test_one_restarter_at_a_time() -> None:
    async with running() as (kernel, _):
        with pytest.raises(ValueError, match="already"):
            async with KernelRestarter(kernel):
                pytest.fail("a second one")


async def test_callbacks(caplog) -> None:
    told: list[object] = []
    finished = anyio.Event()

    async def restarted(event: Restarted) -> None:
        await checkpoint()
        told.append(event)
        finished.set()

    def died(event: Died) -> None:
        told.append(event)
        raise ValueError("a bug of the callback")

    async with running(None) as (kernel, provider), KernelRestarter(kernel, POLICY) as restarter:
        restarter.add_callback(died, Died)
        restarter.add_callback(restarted, Restarted)
        restarter.add_callback(told.append, Died)
        restarter.remove_callback(told.append, Died)
        restarter.remove_callback(told.append, Died)  # it is not there any more
        provider.kernels[0].die()
        await finished.wait()
        assert told == [Died(-9), Restarted(True, kernel.connection_info, 1)]
    assert "a bug of the callback" in caplog.text
