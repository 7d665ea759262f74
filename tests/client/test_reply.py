"""A reply that never comes, and how that is told from one that takes its time."""

from __future__ import annotations

import time

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.client import reply as module
from kernelproto.exceptions import KernelDied, ReplyLost, UnsupportedRequest
from kernelproto.testing import FakeKernel
from kernelproto.wire.conversation import Event, Origin
from kernelproto.wire.transitions import Signal

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


@pytest.mark.parametrize("channel", ["shell", "control"])
async def test_a_request_that_is_dealt_with_and_not_answered_is_unsupported(
    channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FENCE_SECONDS", 0.1)
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.1)
    with anyio.fail_after(GUARD_SECONDS):
        async with FakeKernel() as fake, fake.connect() as client:
            with pytest.raises(UnsupportedRequest, match="the ping_request"):
                await client.request("ping_request", {}, channel)  # type: ignore[arg-type]
            assert len(client._dispatcher.conversation) == 0


async def test_a_reply_may_come_after_idle() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with FakeKernel() as fake, fake.connect() as client:
            held = fake.faults.hold("complete_reply")
            async with anyio.create_task_group() as tasks:
                matches: list[list[str]] = []

                async def complete() -> None:
                    matches.append((await client.complete("x")).matches)

                tasks.start_soon(complete)
                await held.wait()
                await client.kernel_info()
                held.remove()

    assert matches == [[]]


async def test_a_busy_application_may_be_late_to_let_the_reply_in(
    kernel, client, start, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_FENCE_SECONDS", 0.05)
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(module, "CATCHING_UP_SECONDS", GUARD_SECONDS)

    async def let_in() -> None:
        for _ in range(3):
            await checkpoint()
        kernel.reply(request, matches=["here all the time"])

    call = await start(client.complete, "x")
    request = await kernel.expect("complete_request")
    async with anyio.create_task_group() as tasks:
        kernel.status("idle", request)
        tasks.start_soon(let_in)
        time.sleep(0.1)  # noqa: ASYNC251 (that is how applications are)
        assert (await call.result()).matches == ["here all the time"]


# Kernels that say nothing at all about a request.


@pytest.fixture
def ask(client, kernel, start, monkeypatch):
    """Give a function that has a request made: the call, and the request as the kernel has it.

    The client loses patience at once, and the reply may be late by one turn of the event loop.
    """
    for name in ("_FENCE_SECONDS", "_GRACE_SECONDS", "_GRACE_BESIDE_SECONDS"):
        monkeypatch.setattr(module, name, 0.0)

    async def ask(channel="shell", **options):
        call = await start(lambda: client.request("ping_request", {}, channel, **options))
        return call, await kernel.expect("ping_request", channel)

    return ask


def nothing_is_tracked(client) -> bool:
    return not len(client._dispatcher.conversation) and not client._dispatcher._pending


@pytest.mark.parametrize("channel", ["shell", "control"])
async def test_an_answered_fence_shows_that_no_reply_will_come(
    client, kernel, ask, channel
) -> None:
    call, _ = await ask(channel)
    fence = await kernel.expect("kernel_info_request", channel)
    kernel.status("busy", fence)
    kernel.reply(fence, channel)
    error = await call.failure()
    assert isinstance(error, UnsupportedRequest)
    assert str(error) == (
        "the kernel went on without a reply to the ping_request: "
        f"it does not support this request on {channel}"
    )
    assert nothing_is_tracked(client)


async def test_a_request_on_control_has_a_fence_on_shell_too(client, kernel, ask) -> None:
    call, _ = await ask("control")
    await kernel.expect("kernel_info_request", "control")
    kernel.reply(await kernel.expect("kernel_info_request", "shell"))
    assert isinstance(await call.failure(), UnsupportedRequest)
    assert nothing_is_tracked(client)


async def test_request_and_fence_wait_while_code_runs(client, kernel, ask, all_blocked) -> None:
    call, request = await ask()
    await kernel.expect("kernel_info_request")
    await all_blocked()
    assert not call.ended
    kernel.reply(request)
    assert (await call.result()).msg_type == "ping_reply"
    assert nothing_is_tracked(client)


async def test_the_reply_is_there_though_there_is_no_room_for_the_fence(
    client, kernel, start, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_FENCE_SECONDS", 0.0)
    async with anyio.create_task_group() as tasks:
        for _ in range(999):
            tasks.start_soon(client.heartbeat)
        await checkpoint()
        call = await start(client.request, "ping_request", {}, "control")
        request, _fence = client._dispatcher.conversation._open.values()
        kernel.reply(request.message, "control")
        assert (await call.result()).msg_type == "ping_reply"
        assert nothing_is_tracked(client)
        tasks.cancel_scope.cancel()


async def test_a_fence_goes_to_the_subshell_of_its_request(kernel, ask) -> None:
    await ask(subshell_id="sub")
    fence = await kernel.expect("kernel_info_request")
    assert fence.header.subshell_id == "sub"


async def test_request_that_is_reported_busy_has_no_fence(
    client, kernel, start, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_FENCE_SECONDS", 0.0)

    async def send_fences() -> None:
        raise AssertionError("there is no need")

    request = kernel.message("ping_request", {})
    reply = module.Reply()
    reply.receive(Event(Signal.BUSY, Origin.OWN, request))
    call = await start(reply.wait_for_it, send_fences, client._dispatcher.catch_up)
    assert not call.ended
    reply.set(request)
    assert await call.result() is request


async def test_busy_request_is_awaited_although_the_fence_is_answered(
    kernel, ask, all_blocked
) -> None:
    """It serves requests side by side."""
    call, request = await ask()
    kernel.status("busy", request)
    kernel.reply(await kernel.expect("kernel_info_request"))
    await all_blocked()
    assert not call.ended
    kernel.reply(request)
    assert (await call.result()).msg_type == "ping_reply"


@pytest.mark.parametrize("early", [True, False])
async def test_request_that_was_begun_and_passed_is_lost(
    client, kernel, ask, monkeypatch, early
) -> None:
    """Its reply and its "idle" are both lost."""
    monkeypatch.setattr(module, "_BUSY_FENCE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_LOST_SECONDS", 0.0)
    call, request = await ask()
    if early:
        kernel.status("busy", request)
    fence = await kernel.expect("kernel_info_request")
    monkeypatch.setattr(module, "_GRACE_SECONDS", GUARD_SECONDS)
    kernel.reply(fence)
    kernel.status("busy", request)
    error = await call.failure()
    assert isinstance(error, ReplyLost)
    assert str(error) == (
        "the kernel began the ping_request, went on with other requests and sent no reply: the "
        "outcome is unknown"
    )
    assert error.result is None
    assert nothing_is_tracked(client)


async def test_fence_without_an_answer_is_repeated(kernel, ask, monkeypatch) -> None:
    monkeypatch.setattr(module, "_BUSY_FENCE_SECONDS", 0.001)
    call, _ = await ask()
    fences = [await kernel.expect("kernel_info_request") for _ in range(module._MOST_FENCES)]
    kernel.reply(fences[-1])
    assert isinstance(await call.failure(), UnsupportedRequest)


async def test_fence_on_the_other_channel_does_not_end_a_begun_request(
    kernel, ask, monkeypatch, all_blocked
) -> None:
    monkeypatch.setattr(module, "_LOST_SECONDS", 0.0)
    call, request = await ask("control")
    kernel.status("busy", request)
    await kernel.expect("kernel_info_request", "control")
    kernel.reply(await kernel.expect("kernel_info_request", "shell"))
    await all_blocked()
    assert not call.ended
    kernel.reply(request, "control")
    await call.result()


async def test_that_it_is_busy_may_be_known_after_the_fence(
    kernel, ask, monkeypatch, all_blocked
) -> None:
    """That comes by another socket than the replies."""
    call, request = await ask()
    monkeypatch.setattr(module, "_GRACE_SECONDS", GUARD_SECONDS)
    kernel.reply(await kernel.expect("kernel_info_request"))
    kernel.status("busy", request)
    await all_blocked()
    assert not call.ended
    kernel.reply(request)
    assert (await call.result()).msg_type == "ping_reply"


async def test_a_busy_application_may_be_late_to_let_in_that_it_is_busy(
    kernel, ask, monkeypatch, all_blocked
) -> None:
    monkeypatch.setattr(module, "CATCHING_UP_SECONDS", GUARD_SECONDS)
    call, request = await ask()
    kernel.reply(await kernel.expect("kernel_info_request"))
    await all_blocked()
    kernel.status("busy", request)
    await all_blocked()
    assert not call.ended
    kernel.status("idle", request)
    assert isinstance(await call.failure(), UnsupportedRequest)


async def test_the_error_names_the_kernel(kernel, client, start, ask) -> None:
    ready = await start(client.wait_for_ready)
    kernel.status("starting")
    kernel.reply(await kernel.expect("kernel_info_request"), implementation="mine")
    await kernel.expect("kernel_info_request", "control")
    await ready.result()
    call, _ = await ask()
    kernel.reply(await kernel.expect("kernel_info_request"))
    assert str(await call.failure()).startswith("mine went on without a reply to the ping_request")


async def test_kernel_that_dies_after_a_fence_raises(client, kernel, ask) -> None:
    call, _ = await ask()
    await kernel.expect("kernel_info_request")
    client.fail(KernelDied("gone"))
    assert isinstance(await call.failure(), KernelDied)


async def test_cancelled_after_a_fence_the_call_leaves_nothing_tracked(client, kernel, ask) -> None:
    call, request = await ask()
    fence = await kernel.expect("kernel_info_request")
    await call.cancel()
    assert nothing_is_tracked(client)
    kernel.reply(fence)
    kernel.reply(request)
    assert not client.refused
