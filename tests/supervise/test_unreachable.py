"""A kernel whose connection is lost is neither dead nor idle."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto import (
    Died,
    Kernel,
    KernelEvents,
    KernelFinder,
    KernelNotReady,
    KernelUnreachable,
    Reachable,
    Restarted,
    RestartPolicy,
    Timeouts,
    Unreachable,
    run_kernel,
    waiting_in_queue,
)
from kernelproto.testing import FakeKernel
from tests.supervise.fakes import GUARD_SECONDS, POLICY, Provider, answering, running
from tests.supervise.opened import opened

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

SHORT = Timeouts(startup=GUARD_SECONDS, shutdown=0.05, terminate=0.05, kill=0.05)


async def cut(kernel: Kernel, fake: FakeKernel) -> KernelEvents:
    """Cut the connection, and wait for the event; return the events."""
    events = kernel.events()
    fake.cut("the network is down")
    assert await anext(events) == Unreachable("the network is down")
    return events


async def test_calls_wait_until_the_connection_is_back(caplog) -> None:
    answers: list[str | None] = []

    async def execute() -> None:
        answers.append((await kernel.execute("6 * 7")).text)

    async with running() as (kernel, provider):
        [fake] = provider.kernels
        async with anyio.create_task_group() as tasks:
            events = await cut(kernel, fake)
            assert (kernel.state, kernel.unreachable) == ("unreachable", "the network is down")
            assert await kernel.manager.is_alive()
            tasks.start_soon(execute)
            await anyio.wait_all_tasks_blocked()
            assert answers == []
            fake.restore()
        assert answers == ["42"]
        assert (await anext(events)).seconds >= 0
        assert (kernel.state, kernel.unreachable) == ("idle", None)
        assert len(provider.kernels) == 1
    assert "cannot be reached: the network is down" in caplog.text


async def test_kernel_that_ends_during_the_cut_is_not_reported_as_reachable() -> None:
    async with running() as (kernel, provider):
        [fake] = provider.kernels
        events = await cut(kernel, fake)
        fake.die()
        fake.reachability.end()
        assert isinstance(await anext(events), Died)


async def test_outputs_of_running_code_arrive_after_the_cut() -> None:
    resume = anyio.Event()

    async def work(exchange) -> None:
        exchange.stream("before ")
        await resume.wait()
        exchange.stream("during ")

    async with running(prepare=lambda fake: fake.on_execute("work", work)) as (kernel, provider):
        [fake] = provider.kernels
        async with kernel.execute("work") as execution:
            assert (await anext(execution)).text == "before "
            await cut(kernel, fake)
            resume.set()
            await anyio.wait_all_tasks_blocked()
            fake.restore()
            assert (await execution).stdout == "before during "


async def test_caller_gives_up() -> None:
    async with running() as (kernel, provider):
        [fake] = provider.kernels
        async with kernel.fail_if_unreachable():
            assert (await kernel.execute("6 * 7")).text == "42"
        await cut(kernel, fake)
        with pytest.raises(KernelUnreachable, match=r"0\.01 s: the network is down"):
            async with kernel.fail_if_unreachable(0.01):
                await anyio.sleep_forever()
        fake.restore()
        assert (await kernel.execute("6 * 7")).text == "42"


async def test_caller_does_not_give_up_when_the_connection_comes_back_in_time() -> None:
    async with running() as (kernel, provider):
        [fake] = provider.kernels
        async with kernel.fail_if_unreachable(GUARD_SECONDS):
            for _ in range(2):
                events = await cut(kernel, fake)
                fake.restore()
                assert isinstance(await anext(events), Reachable)


async def test_exception_of_the_block_is_raised_as_it_is() -> None:
    async with running() as (kernel, _):
        with pytest.raises(ZeroDivisionError):
            async with kernel.fail_if_unreachable():
                raise ZeroDivisionError


async def test_death_during_a_cut_is_noticed_after_it() -> None:
    async with running() as (kernel, provider):
        [fake] = provider.kernels
        events = await cut(kernel, fake)
        fake.die(-9)
        await anyio.wait_all_tasks_blocked()
        assert kernel.state == "unreachable"
        fake.restore()
        seen = [event async for event in _until_restarted(events)]
        assert Died(-9) in seen
        assert (await kernel.execute("6 * 7")).text == "42"


async def _until_restarted(events: KernelEvents):
    async for event in events:
        yield event
        if isinstance(event, Restarted):
            return


class Probed(Provider):
    """Launches kernels whose connection is found to be cut when they are probed, or back again."""

    is_back = False

    async def launch(self, name, **options):
        info, manager = await super().launch(name, **options)
        self.probed = anyio.Event()

        async def probe() -> bool:
            await checkpoint()
            if "hb" in manager.kernel.deaf:  # on a busy machine, an echo may be late before
                if self.is_back:
                    manager.kernel.deaf.clear()
                else:
                    manager.kernel.cut()
                self.probed.set()
            return self.is_back

        manager.probe = probe
        return info, manager


async def test_silent_heartbeat_of_a_lost_connection_kills_nothing() -> None:
    """The heartbeat falls silent before the manager notices that the connection is lost."""
    policy = RestartPolicy(time_to_dead=0.1)
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            Probed(answering) as provider,
            run_kernel("fake/kernel", finder=KernelFinder([provider]), restart=policy) as kernel,
        ):
            [fake] = provider.kernels
            for _ in range(2):  # the restarter's first one was answered before the second of these
                await kernel.client.heartbeat()
            fake.deaf.add("hb")
            await provider.probed.wait()
            await anyio.wait_all_tasks_blocked()
            assert (kernel.state, fake.returncode) == ("unreachable", None)
            fake.deaf.clear()
            fake.restore()
            assert (await kernel.execute("6 * 7")).text == "42"
            assert len(provider.kernels) == 1


async def test_silence_of_a_connection_that_is_back_kills_nothing() -> None:
    policy = RestartPolicy(time_to_dead=1)
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            Probed(answering) as provider,
            run_kernel("fake/kernel", finder=KernelFinder([provider]), restart=policy) as kernel,
        ):
            provider.is_back = True
            [fake] = provider.kernels
            for _ in range(2):  # the restarter's first one was answered before the second of these
                await kernel.client.heartbeat()
            fake.deaf.add("hb")
            await provider.probed.wait()
            await kernel.client.heartbeat()  # answered after that of the restarter
            await anyio.wait_all_tasks_blocked()
            assert (kernel.state, fake.returncode) == ("idle", None)


async def test_restart_and_shutdown_of_an_unreachable_kernel_take_a_limited_time() -> None:
    async with running(None, timeouts=SHORT) as (kernel, provider):
        await cut(kernel, provider.kernels[0])
        await kernel.restart()
        assert kernel.state == "idle"
        await cut(kernel, provider.kernels[1])
        await kernel.shutdown()
        assert kernel.state == "dead"
    assert [fake.returncode for fake in provider.kernels] == [-9, -9]


async def test_time_in_a_queue_does_not_count_as_startup_time() -> None:
    async def wait_in_queue() -> None:
        with waiting_in_queue():
            await anyio.sleep_forever()

    async with Provider(answering) as provider:
        provider.launching = wait_in_queue
        timeouts = Timeouts(startup=GUARD_SECONDS, queue=0)
        finder = KernelFinder([provider])
        with pytest.raises(KernelNotReady, match="in a queue") as caught:
            async with run_kernel("fake/kernel", finder=finder, timeouts=timeouts):
                pytest.fail("it has started")
    assert (caught.value.phase, caught.value.seconds) == ("queue", 0)


async def test_time_without_a_connection_does_not_count_as_startup_time() -> None:
    async with Provider(FakeKernel.cut) as provider:
        info, manager = await provider.launch("kernel")
        with pytest.raises(KernelNotReady, match="could not be reached") as caught:
            async with opened(info, manager, Timeouts(startup=GUARD_SECONDS, queue=0)):
                pytest.fail("it has started")
        assert caught.value.phase == "queue"

        info, manager = await provider.launch("kernel")
        async with anyio.create_task_group() as tasks:

            @tasks.start_soon
            async def restore() -> None:
                await anyio.wait_all_tasks_blocked()
                provider.kernels[1].restore()

            async with opened(info, manager) as kernel:
                assert (await kernel.execute("6 * 7")).status == "ok"


async def test_restarter_has_the_events() -> None:
    seen: list[object] = []
    async with running(POLICY) as (kernel, provider):
        kernel.add_callback(seen.append, Unreachable)
        kernel.add_callback(seen.append, Reachable)
        events = await cut(kernel, provider.kernels[0])
        provider.kernels[0].restore()
        seen.remove(await anext(events))
    assert seen == [Unreachable("the network is down")]
