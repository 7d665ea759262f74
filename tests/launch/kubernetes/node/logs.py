"""The server of a node, which the API server asks for the output of containers."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener

if TYPE_CHECKING:
    from tests.launch.kubernetes.node.node import Node

LONGEST_REQUEST = 2**16
REQUEST_SECONDS = 10


async def serve_logs(node: Node, *, task_status: anyio.abc.TaskStatus[int]) -> None:
    """Answer requests; tell the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(node.config["certificate"], node.config["key"])
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def answer(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with anyio.move_on_after(REQUEST_SECONDS):
                reader = BufferedByteReceiveStream(stream)
                try:
                    head = await reader.receive_until(b"\r\n\r\n", LONGEST_REQUEST)
                    await stream.send(_answer(node, head.split()[1].decode()))
                except (
                    anyio.BrokenResourceError,
                    anyio.ClosedResourceError,
                    anyio.IncompleteRead,
                    anyio.DelimiterNotFound,
                ):
                    pass

    task_status.started(port)
    await TLSListener(listener, context, standard_compatible=False).serve(answer)


def _answer(node: Node, target: str) -> bytes:
    url = urlsplit(target)
    parts, query = url.path.strip("/").split("/"), parse_qs(url.query)
    status, body = "404 Not Found", b"there is no such container"
    if parts[0] == "containerLogs" and len(parts) == 4:
        for pod in node.pods.values():
            if [pod.meta["namespace"], pod.meta["name"]] == parts[1:3]:
                for container in pod.containers:
                    if container.spec["name"] == parts[3] and container.log.exists():
                        status, body = "200 OK", _chosen(container.log.read_bytes(), query)
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def _chosen(output: bytes, query: dict[str, list[str]]) -> bytes:
    """Return the part of the output that is asked for."""
    if lines := query.get("tailLines"):
        every = output.splitlines(keepends=True)
        output = b"".join(every[max(0, len(every) - int(lines[0])) :])
    if limit := query.get("limitBytes"):
        output = output[: int(limit[0])]
    return output
