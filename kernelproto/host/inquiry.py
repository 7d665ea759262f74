"""Single requests to a host, on connections that own no kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream

from kernelproto.exceptions import RemoteProtocolError
from kernelproto.host.link import Connect, RequestRefused
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
            hello, answer = await _two_answers(stream)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
    greeting: Mapping[str, Any] = hello.get("ok") or {}
    version = greeting.get("version")
    if version != frames.VERSION:
        raise RemoteProtocolError(
            f"the host speaks version {version!r} of the protocol, and this program "
            f"{frames.VERSION}: end its kernels, or use the version of kernelproto that has "
            "started them"
        )
    if answer.get("ok") is None:
        raise RequestRefused(answer.get("error") or {})
    result: Mapping[str, Any] = answer["ok"]
    return result


async def _two_answers(stream: ByteStream) -> list[dict[str, Any]]:
    """Return the greeting and the answer of a host."""
    reader = frames.FrameReader(0)
    answers: list[dict[str, Any]] = []
    try:
        while len(answers) < 2:
            answers += [frame.json() for frame in reader.feed(await stream.receive())]
    except frames.Broken as error:
        raise RemoteProtocolError(f"the host is broken: {error}") from None
    return answers[:2]
