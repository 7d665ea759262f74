"""The processes of a kernel, one after the other, with fake kernels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from kernelproto import (
    Backoff,
    ClientClosed,
    Died,
    InvalidLaunchParameter,
    Kernel,
    KernelDied,
    KernelNotReady,
    KernelRestarted,
    LaunchError,
    Restarted,
    RestartPolicy,
    Timeouts,
)
from kernelproto.supervise.kernel import let_go, open_kernel
from kernelproto.testing import FakeKernel
from kernelproto.wire import Message
from tests.supervise.fakes import GUARD_SECONDS, POLICY, Provider, kill, running

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def test_observers_handlers_and_comm_targets_stay_across_a_restart() -> None:
    handled: list[str] = []
    handled_two, opened = anyio.Event(), anyio.Event()

    def prepare(fake: FakeKernel) -> None:
        fake.on_execute("print", stdout="hello")

    def handle(message: Message, channel: str) -> None:
        if message.msg_type == "stream":
            handled.append(message.content.text)
        if len(handled) == 2:
            handled_two.set()

    async with running(prepare=prepare) as (kernel, provider):
        kernel.add_handler(handle)
        kernel.comms.register_target("target", lambda comm, message: opened.set())
        async with kernel.messages(msg_types=["stream"]) as messages:
            await kernel.execute("print")
            await kill(kernel, provider)
            await kernel.execute("print")
            assert [(await anext(messages))[0].content.text for _ in range(2)] == ["hello"] * 2
        await handled_two.wait()
        provider.kernels[1].publish(
            {"comm_id": "1", "target_name": "target", "data": {}}, "comm_open"
        )
        await opened.wait()


class Recorder:
    """A watcher that notes each call."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def offer(self, message: Message, channel: str) -> None:
        if message.msg_type in ("stream", "debug_event"):
            self.seen.append(message.msg_type)

    def fail(self, error: Exception) -> None:
        self.seen.append(type(error))

    def resume(self) -> None:
        self.seen.append("resumed")


async def test_observers_and_events_end_although_the_kernel_goes_on() -> None:
    recorder = Recorder()
    async with Provider() as provider:

        async def launch(**changes):
            return await provider.launch("kernel")

        async with open_kernel(launch, timeouts=Timeouts(), outlives=True) as kernel:
            kernel.watch(recorder)
            events = kernel.events()
        assert recorder.seen == [ClientClosed]
        with anyio.fail_after(GUARD_SECONDS):
            assert [event async for event in events] == []


@asynccontextmanager
async def outliving() -> AsyncIterator[tuple[Kernel, FakeKernel]]:
    """Open a kernel that outlives the block; yield the kernel and its process."""

    async def launch(**changes):
        info, manager = await provider.launch("kernel")
        manager.detach = checkpoint
        return info, manager

    async with (
        Provider() as provider,
        open_kernel(launch, timeouts=Timeouts(), outlives=True) as kernel,
    ):
        yield kernel, provider.kernels[0]


async def test_program_that_has_let_go_of_a_kernel_can_neither_use_nor_end_that_kernel() -> None:
    async with outliving() as (kernel, process):
        assert let_go(kernel)
        for use in (kernel.restart, kernel.wait_for_ready, kernel.interrupt, kernel.shutdown):
            with pytest.raises(ClientClosed, match="this program has let go of the kernel"):
                await use()
        with pytest.raises(ClientClosed, match="this program has let go of the kernel"):
            await kernel.execute("6 * 7")
        assert kernel.state == "dead"
        assert process.returncode is None


async def test_kernel_is_let_go_with_its_block() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with outliving() as (kernel, _):
            pass
        with pytest.raises(ClientClosed, match="this program has let go of the kernel"):
            await kernel.restart()


async def test_watchers_and_debug_events_of_a_kernel() -> None:
    recorder, deaths = Recorder(), []
    async with running() as (kernel, provider):
        kernel.watch(recorder)
        kernel.add_callback(deaths.append, Died)
        assert await kernel.heartbeat() >= 0
        assert kernel.restart_attempt is None
        async with kernel.debug_events() as events:
            await kill(kernel, provider)
            assert kernel.restart_attempt == 1
            assert await kernel.current_client() is kernel.client
            provider.kernels[1].publish({"event": "stopped"}, "debug_event")
            assert await anext(events) == {"event": "stopped"}
        kernel.unwatch(recorder)
        kernel.remove_callback(deaths.append, Died)
        await kill(kernel, provider)
        await kernel.wait_for_ready()
    assert recorder.seen == ["resumed", "debug_event"]
    assert deaths == [Died(-9)]


async def test_restart_by_hand() -> None:
    async with running(None) as (kernel, provider):
        events = kernel.events()
        await kernel.restart()
        first, second = provider.kernels
        assert first.returncode == 0
        assert kernel.connection_info == second.connection_info
        assert (await kernel.execute("6 * 7")).text == "42"
        assert await anext(events) == Restarted(False, second.connection_info, 1)
        second.die(-9)
        with pytest.raises(KernelDied):
            await kernel.execute("6 * 7")
        assert kernel.state == "dead"
        await kernel.restart()
        assert (await kernel.execute("6 * 7")).text == "42"


async def test_restart_ends_pending_calls() -> None:
    async with running(None) as (kernel, provider):
        provider.kernels[0].deaf.add("shell")
        async with kernel.execute("6 * 7") as execution:
            await kernel.restart()
            with pytest.raises(KernelRestarted):
                await execution


async def test_restarts_at_the_same_time_are_one() -> None:
    async with running() as (kernel, provider):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(kernel.restart)
        assert len(provider.kernels) == 2


async def test_cancelled_caller_does_not_stop_the_restart() -> None:
    async with running(None) as (kernel, provider):
        gate = anyio.Event()
        provider.launching = gate.wait
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kernel.restart)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert kernel.state == "restarting"
        gate.set()
        assert (await kernel.execute("6 * 7")).text == "42"


async def test_restart_that_fails_can_be_tried_again() -> None:
    async def fail() -> None:
        provider.launching = checkpoint
        raise LaunchError("not now")

    async with running(None) as (kernel, provider):
        provider.launching = fail
        async with kernel.client.messages() as messages:
            with pytest.raises(LaunchError, match="not now"):
                await kernel.restart()
            with pytest.raises(LaunchError, match="not now"):
                [message async for message in messages]
        assert kernel.state == "dead"
        await kernel.restart()
        assert (await kernel.execute("6 * 7")).text == "42"


async def test_death_just_when_a_restart_begins() -> None:
    """The restart begins after each possible number of steps from the death."""
    policy = RestartPolicy(
        limit=1000, time_to_dead=None, stable_after=0.0, backoff=Backoff(initial=0.0)
    )
    async with running(policy) as (kernel, provider):
        for steps in range(40):
            provider.kernels[-1].die()
            for _ in range(steps):
                await checkpoint()
            await kernel.restart()
            assert (await kernel.execute("6 * 7")).text == "42"


async def test_death_just_when_the_kernel_is_shut_down() -> None:
    for steps in range(0, 40, 3):
        async with running() as (kernel, provider):
            provider.kernels[-1].die()
            for _ in range(steps):
                await checkpoint()
            await kernel.shutdown()
            assert kernel.state == "dead"
            with pytest.raises(ClientClosed):
                await kernel.restart()


async def test_restart_with_another_environment(tmp_path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with running(cwd=first, env={"A": "1", "B": "1"}) as (kernel, provider):
        assert kernel.cwd == str(first)
        await kernel.restart(env={"B": "2"}, cwd=second)
        assert kernel.cwd == str(second)
        await kernel.restart(env={"C": "3"})
        await kill(kernel, provider)
        await kernel.execute("6 * 7")

    assert [(fake.cwd, fake.env) for fake in provider.kernels] == [
        (str(first), {"A": "1", "B": "1"}),
        (str(second), {"A": "1", "B": "2"}),
        (str(second), {"A": "1", "B": "2", "C": "3"}),
        (str(second), {"A": "1", "B": "2", "C": "3"}),
    ]


async def test_restart_that_fails_keeps_the_old_environment(tmp_path) -> None:
    async with running(None, cwd=tmp_path) as (kernel, provider):
        with pytest.raises(InvalidLaunchParameter, match="missing"):
            await kernel.restart(env={"A": "1"}, cwd=tmp_path / "missing")
        assert kernel.cwd == str(tmp_path)
        await kernel.restart()
        assert (provider.kernels[-1].cwd, provider.kernels[-1].env) == (str(tmp_path), {})


@pytest.mark.parametrize("env", [{"A": 1}, {"A=": "1"}, {"A": "\0"}, "A"], ids=str)
async def test_restart_with_a_wrong_environment_ends_nothing(env) -> None:
    async with running(None) as (kernel, provider):
        with pytest.raises(InvalidLaunchParameter, match="env must be a mapping"):
            await kernel.restart(env=env)
        assert (await kernel.execute("6 * 7")).text == "42"
        assert len(provider.kernels) == 1


async def test_restart_with_another_environment_during_a_restart() -> None:
    async with running(None) as (kernel, provider):
        gate = anyio.Event()
        provider.launching = gate.wait
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kernel.restart)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(partial(kernel.restart, env={"A": "1"}))
            await anyio.wait_all_tasks_blocked()
            gate.set()
        assert [fake.env for fake in provider.kernels] == [{}, {}, {"A": "1"}]


async def test_restart_that_takes_too_long() -> None:
    timeouts = Timeouts(startup=0.2)
    async with running(None, timeouts=timeouts) as (kernel, provider):
        provider.launching = anyio.sleep_forever
        with pytest.raises(KernelNotReady, match="launch"):
            await kernel.restart()


async def begin_restart(kernel: Kernel, provider: Provider, tasks: TaskGroup) -> None:
    """Let the kernel be restarted, which comes to no end."""

    async def restart_in_vain() -> None:
        with pytest.raises(ClientClosed):
            await kernel.restart()

    provider.launching = anyio.sleep_forever
    if kernel.lifecycle._supervisor is None:
        tasks.start_soon(restart_in_vain)
        await anyio.wait_all_tasks_blocked()
    else:
        await kill(kernel, provider)
    assert kernel.state == "restarting"


by_hand_and_supervised = pytest.mark.parametrize(
    "policy", [None, POLICY], ids=["by hand", "supervised"]
)


@by_hand_and_supervised
async def test_shutdown_during_a_restart(policy) -> None:
    async def wait(kernel: Kernel) -> None:
        with pytest.raises(ClientClosed, match="shut down"):
            await kernel.execute("6 * 7")

    async with running(policy) as (kernel, provider):
        async with anyio.create_task_group() as tasks:
            await begin_restart(kernel, provider, tasks)
            tasks.start_soon(wait, kernel)
            await anyio.wait_all_tasks_blocked()
            await kernel.shutdown()
        assert kernel.state == "dead"
        with pytest.raises(ClientClosed):
            await kernel.restart()


@by_hand_and_supervised
async def test_block_left_during_a_restart(policy) -> None:
    async with anyio.create_task_group() as tasks, running(policy) as (kernel, provider):
        await begin_restart(kernel, provider, tasks)


async def test_execution_made_before_a_restart_and_sent_after_it() -> None:
    async with running() as (kernel, provider):
        execution = kernel.execute("6 * 7")
        await kill(kernel, provider)
        await kernel.wait_for_ready()
        assert (await execution).text == "42"
