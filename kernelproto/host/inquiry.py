"""Single requests to a host, on connections that own no kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream

from kernelproto.exceptions import RemoteProtocolError
from kernelproto.host.link import Connect, RequestRefused
from kernelproto.host.protocol import check_greeting
from kernelproto.launch.programs.host import frames

# A host that takes longer to answer cannot be reached. To end a kernel takes the system a moment.
_ANSWER_SECONDS = 10.0


async def ask_host(connect: Connect, operation: str, **arguments: Any) -> Mapping[str, Any]:
    """Send one request to a host; return the answer.

    Args:
        connect: connects to the host.
        operation: "list" or "end", see programs/host/requests.py.
        arguments: the arguments of the operation.

    Raises:
        RequestRefused: the host has refused the request.
        RemoteProtocolError: the host does not speak this version of the protocol.
        HostGone: the host has ended.
        OSError: the host cannot be reached now.
        BrokenResourceError: the connection was lost.
        EndOfStream: the same.
    """
    stream = await connect()
    try:
        with anyio.fail_after(_ANSWER_SECONDS):
            request = {"op": operation, **arguments}
            await stream.send(frames.pack_json(frames.REQUEST, request, number=1))
            answer = await _answer(stream)
    finally:
        await anyio.aclose_forcefully(stream)
    if answer.get("ok") is None:
        raise RequestRefused(answer.get("error") or {})
    result: Mapping[str, Any] = answer["ok"]
    return result


async def _answer(stream: ByteStream) -> dict[str, Any]:
    """Return the answer of a host, which follows the greeting."""
    reader = frames.FrameReader(0)
    answers: list[dict[str, Any]] = []
    try:
        while len(answers) < 2:
            for frame in reader.feed(await stream.receive()):
                if not answers:
                    check_greeting(frame)
                answers.append(frame.json())
        return answers[1]
    except frames.Broken as error:
        raise RemoteProtocolError(f"the host is broken: {error}") from None
