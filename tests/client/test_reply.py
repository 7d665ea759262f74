"""A reply that never comes, although the kernel is through with the request."""

from __future__ import annotations

import time

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.client import reply as module
from kernelproto.exceptions import UnsupportedRequest
from kernelproto.testing import FakeKernel

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("channel", ["shell", "control"])
async def test_a_request_that_is_dealt_with_and_not_answered_is_unsupported(channel: str) -> None:
    with anyio.fail_after(60):
        async with FakeKernel() as fake, fake.connect() as client:
            with pytest.raises(UnsupportedRequest, match="the ping_request"):
                await client.request("ping_request", {}, channel)  # type: ignore[arg-type]
            assert len(client._dispatcher.conversation) == 0


async def test_a_reply_may_come_after_idle() -> None:
    with anyio.fail_after(60):
        async with FakeKernel() as fake, fake.connect() as client:
            held = fake.faults.hold("complete_reply")
            async with anyio.create_task_group() as tasks:
                matches: list[list[str]] = []

                async def complete() -> None:
                    matches.append((await client.complete("x")).matches)

                tasks.start_soon(complete)
                await held.wait()
                await client.kernel_info()
                held.lift()

    assert matches == [[]]


async def test_a_busy_application_may_be_late_to_let_the_reply_in(
    kernel, client, start, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.05)

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
