from __future__ import annotations

import pytest

from kernelproto.client.quirks import TRAILING_SECONDS

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["Deno kernel", "another"])
async def test_a_kernel_is_known_by_its_implementation(client, kernel, start, name) -> None:
    call = await start(client.wait_for_ready)
    kernel.status("starting")
    kernel.reply(await kernel.expect("kernel_info_request"), implementation=name)
    await call.result()
    known = TRAILING_SECONDS.get(name, 0.0)
    assert client._dispatcher.conversation.trailing_seconds == known
    assert (known > 0) == (name == "Deno kernel")
