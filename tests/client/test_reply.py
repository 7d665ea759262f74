"""A reply that never comes, although the kernel is through with the request."""

from __future__ import annotations

import anyio
import pytest

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
