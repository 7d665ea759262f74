from __future__ import annotations

import logging
import socket

import pytest
from anyio.abc import UNIXSocketStream

from kernelproto.host.link import Link
from kernelproto.launch.programs.host import frames, zmtp
from kernelproto.launch.programs.host.frames import pack, pack_json


@pytest.mark.anyio
async def test_messages_that_the_host_has_lost_are_reported(caplog) -> None:
    caplog.set_level(logging.WARNING)
    near, far = socket.socketpair()

    async def connect() -> UNIXSocketStream:
        return await UNIXSocketStream.from_socket(near)

    with far:
        for answer in ({"version": frames.VERSION}, {}):
            far.sendall(pack_json(frames.ANSWER, {"ok": answer}))
        for number in (1, 2, 6):
            body = zmtp.join([b"topic", b"text"])
            far.sendall(pack(frames.MESSAGE, body, channel=frames.IOPUB, number=number))
        link = Link(connect, kernel_id="k", claim="secret", first={"op": "attach"})
        link.protocol.deliver_to(lambda channel, parts: None)
        await link.first_answer()
        await link.drive(until=lambda: link.protocol.last == 6)
        await link.aclose()

    assert caplog.messages == ["3 messages of kernel k are lost: its log in the host was full"]
