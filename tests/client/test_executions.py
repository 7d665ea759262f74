from __future__ import annotations

import pytest

from tests.client.conftest import next_interrupt

pytestmark = pytest.mark.anyio


async def test_interrupt_of_the_kernel_that_comes_too_early_is_repeated(
    client, kernel, run, start, quick
) -> None:
    _, call, request = await run()
    interrupting = await start(client.interrupt_kernel)
    await next_interrupt(kernel)  # nothing runs yet
    await interrupting.result()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request)
    await call.result()


@pytest.mark.parametrize("state", ["another client's code", "its own code"])
async def test_interrupt_of_the_kernel_that_strikes_code_is_not_repeated(
    client, kernel, run, start, quick, state
) -> None:
    _, call, request = await run()
    if state == "its own code":
        kernel.status("busy", request)
        kernel.stream(request, "I run")
    else:
        kernel.status("busy", kernel.message("execute_request", {}))
    interrupting = await start(client.interrupt_kernel)
    await next_interrupt(kernel)
    await interrupting.result()
    kernel.finish(request)
    await call.result()


async def test_busy_kernel_is_woken_after_an_interrupt_until_it_replies(
    client, kernel, run, start
) -> None:
    _, call, request = await run()
    kernel.status("busy", request)
    kernel.stream(request, "the code runs")
    interrupting = await start(client.interrupt)
    kernel.reply(await kernel.expect("interrupt_request", "control"), "control")
    await interrupting.result()
    await kernel.expect("kernel_info_request")  # no task waits for the reply
    kernel.finish(request)
    await call.result()
    assert not client.waiting
