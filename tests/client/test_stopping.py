from __future__ import annotations

import anyio
import pytest

from kernelproto.client import execution as module
from kernelproto.client import stopping
from kernelproto.exceptions import (
    ClientClosed,
    ExecutionTimeout,
    KernelDied,
    KernelUnresponsive,
    LocalProtocolError,
)
from kernelproto.timeouts import Timeouts
from tests.client.conftest import (
    execution_result,
    next_interrupt,
    nothing_is_tracked,
    outputs_until_failure,
    text,
)

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


async def test_after_its_time_the_code_is_interrupted_and_waited_for(kernel, run, quick) -> None:
    execution, call, request = await run(timeout=0.01)
    kernel.status("busy", request)
    kernel.stream(request, "so far")
    await next_interrupt(kernel)
    assert not call.ended
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    error = await call.failure()
    assert isinstance(error, ExecutionTimeout)
    assert isinstance(error, TimeoutError)
    assert (error.seconds, error.ename, error.restarted) == (0.01, "KeyboardInterrupt", False)
    assert (error.result.status, error.result.stdout) == ("error", "so far")
    assert str(error) == "the code ran for more than 0.01 s and was interrupted"
    assert await outputs_until_failure(execution) == ([text("so far")], ExecutionTimeout)
    with pytest.raises(ExecutionTimeout):
        await execution


async def test_time_in_the_queue_does_not_count(client, kernel, run, start, quick) -> None:
    first = await start(execution_result, client.execute("another's"))
    busy = await kernel.expect("execute_request")
    kernel.status("busy", busy)
    _, call, request = await run(timeout=0)
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()
    kernel.finish(busy)
    await first.result()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request)
    assert isinstance(await call.failure(), ExecutionTimeout)


async def test_code_that_ends_in_time_is_not_interrupted(kernel, client, run, start) -> None:
    _, call, request = await run(timeout=GUARD_SECONDS)
    kernel.status("busy", request)
    kernel.finish(request)
    assert (await call.result()).status == "ok"
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()


async def test_unread_end_of_a_busy_application_is_in_time(
    kernel, client, run, start, monkeypatch, all_blocked
) -> None:
    monkeypatch.setattr(stopping, "CATCHING_UP_SECONDS", GUARD_SECONDS)
    _, call, request = await run(timeout=0)
    kernel.status("busy", request)
    await all_blocked()  # its time is up
    kernel.finish(request)
    assert (await call.result()).status == "ok"


async def test_an_interrupt_is_repeated_until_the_end(kernel, run, quick) -> None:
    _, call, request = await run(timeout=0)
    kernel.status("busy", request)
    for _ in range(3):
        await next_interrupt(kernel)
    kernel.finish(request)
    assert isinstance(await call.failure(), ExecutionTimeout)


async def test_an_interrupt_without_reply_does_not_end_the_waiting(kernel, run, quick) -> None:
    _, call, request = await run(timeout=0)
    kernel.status("busy", request)
    await kernel.expect("interrupt_request", "control")
    kernel.finish(request)
    assert isinstance(await call.failure(), ExecutionTimeout)


async def test_time_is_limited_although_no_task_waits(client, kernel, start, quick) -> None:
    execution = client.execute("code", timeout=0)
    call = await start(execution_result, execution)
    request = await kernel.expect("execute_request")
    await call.cancel()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request)
    with pytest.raises(ExecutionTimeout):
        await execution


async def test_code_that_ignores_interrupts_raises_kernel_unresponsive(
    kernel, start, quick
) -> None:
    async with kernel.client(timeouts=Timeouts(interrupt=0.1)) as client:
        execution = client.execute("code", timeout=0)
        call = await start(execution_result, execution)
        request = await kernel.expect("execute_request")
        kernel.status("busy", request)
        kernel.stream(request, "so far")
        await next_interrupt(kernel)
        error = await call.failure()
        assert isinstance(error, KernelUnresponsive)
        assert isinstance(error, TimeoutError)
        assert (error.seconds, error.result.status) == (0.1, "unknown")
        assert (error.result.stdout, error.result.outputs_complete) == ("so far", False)
        assert execution.state == "done"
        assert nothing_is_tracked(client)


async def test_interrupt_that_fails_is_logged_and_the_time_is_limited(
    kernel, start, quick, caplog
) -> None:
    async def interrupt() -> None:
        raise PermissionError("the kernel runs as another user")

    async with kernel.client(timeouts=Timeouts(interrupt=0.1)) as client:
        client.interrupter = interrupt
        call = await start(execution_result, client.execute("code", timeout=0))
        request = await kernel.expect("execute_request")
        kernel.status("busy", request)
        kernel.stream(request, "so far")
        assert isinstance(await call.failure(), KernelUnresponsive)
    assert "the kernel runs as another user" in caplog.text


async def test_reply_that_is_lost_with_the_interrupt_is_a_timeout(
    client, kernel, run, quick
) -> None:
    _, call, request = await run(timeout=0)
    kernel.status("busy", request)
    kernel.stream(request, "so far")
    await next_interrupt(kernel)
    kernel.status("idle", request)
    client._dispatcher.give_up(next(client._dispatcher.conversation.open_requests()))
    error = await call.failure()
    assert isinstance(error, ExecutionTimeout)
    assert (error.result.status, error.result.stdout) == ("unknown", "so far")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"timeout": -1}, "timeout must be seconds"),
        ({"timeout": float("nan")}, "timeout must be seconds"),
        ({"timeout": 1, "on_timeout": "explode"}, "on_timeout must be"),
        ({"on_timeout": "restart"}, "needs a timeout"),
        ({"timeout": 1, "on_timeout": "restart"}, "needs a Kernel"),
    ],
)
async def test_timeout_that_cannot_be_kept_is_refused(client, options, complaint) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        client.execute("code", **options)


async def test_interrupt_strikes_code_that_runs(kernel, run, start) -> None:
    execution, call, request = await run()
    kernel.status("busy", request)
    kernel.stream(request, "I run")
    interrupting = await start(execution.interrupt)
    await next_interrupt(kernel)
    await interrupting.result()
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    assert (await call.result()).error.ename == "KeyboardInterrupt"


async def test_interrupt_of_a_queued_execution_waits_for_its_turn(
    client, kernel, run, start, quick
) -> None:
    first = await start(execution_result, client.execute("another's"))
    busy = await kernel.expect("execute_request")
    kernel.status("busy", busy)
    kernel.stream(busy, "I run")
    execution, call, request = await run()
    await execution.interrupt()
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()
    kernel.finish(busy)
    await first.result()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    assert (await call.result()).error.ename == "KeyboardInterrupt"


async def test_interrupt_before_it_is_sent_waits_for_its_turn(client, kernel, start, quick) -> None:
    execution = client.execute("code")
    await execution.interrupt()
    call = await start(execution_result, execution)
    request = await kernel.expect("execute_request")
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request)
    await call.result()


@pytest.mark.parametrize("aborted", [False, True], ids=["done", "aborted"])
async def test_interrupt_of_a_finished_execution_has_no_effect(
    client, kernel, run, start, aborted
) -> None:
    execution, call, request = await run()
    if aborted:
        await execution.interrupt()
        kernel.status("busy", request)
        kernel.reply(request, status="aborted")
    else:
        kernel.finish(request)
    await call.result()
    await execution.interrupt()
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()


@pytest.mark.parametrize("in_block", [False, True], ids=["awaited", "in its block"])
async def test_cancelling_may_interrupt_and_wait_for_the_end(
    kernel, client, start, all_blocked, in_block, quick
) -> None:
    execution = client.execute("code", interrupt_on_cancel=True)

    async def use() -> None:
        if in_block:
            async with execution:
                await anyio.sleep_forever()
        else:
            await execution

    call = await start(use)
    request = await kernel.expect("execute_request")
    kernel.status("busy", request)
    call.scope.cancel()
    await next_interrupt(kernel)
    await all_blocked()
    assert not call.ended
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    await call.cancel()
    assert (await execution).error.ename == "KeyboardInterrupt"


async def test_cancelling_waits_for_the_end_only_for_a_while(
    kernel, run, quick, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_INTERRUPT_SECONDS", 0.3)
    execution, call, request = await run(interrupt_on_cancel=True)
    kernel.status("busy", request)
    await call.cancel()
    await kernel.expect("interrupt_request", "control")
    kernel.finish(request)
    assert (await execution).status == "ok"


@pytest.mark.parametrize("in_block", [False, True], ids=["awaited", "in its block"])
async def test_cancelling_in_the_queue_interrupts_when_its_turn_comes(
    kernel, client, start, in_block, quick
) -> None:
    first = await start(execution_result, client.execute("another's"))
    busy = await kernel.expect("execute_request")
    kernel.status("busy", busy)
    execution = client.execute("code", interrupt_on_cancel=True)

    async def use() -> None:
        if in_block:
            async with execution:
                await anyio.sleep_forever()
        else:
            await execution

    call = await start(use)
    request = await kernel.expect("execute_request")
    await call.cancel()  # at once
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()
    kernel.finish(busy)
    await first.result()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.stream(request, "dropped, if its block was left")
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    if in_block:
        with pytest.raises(ClientClosed):
            await execution
    else:
        assert (await execution).error.ename == "KeyboardInterrupt"
    assert nothing_is_tracked(client)


async def test_cancelling_after_the_end_of_the_kernel_does_not_wait(
    client, run, all_blocked
) -> None:
    _, call, _ = await run(interrupt_on_cancel=True)
    call.scope.cancel()
    client.fail(KernelDied("gone"))
    await call.cancel()


async def test_execution_with_a_reply_is_not_interrupted(
    kernel, client, run, start, all_blocked
) -> None:
    """The interrupt would hit whatever the kernel runs next."""
    _, call, request = await run(interrupt_on_cancel=True)
    kernel.reply(request)
    call.scope.cancel()
    await all_blocked()
    assert not call.ended
    kernel.status("idle", request)
    await call.cancel()
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()
