"""Handover: the clients of a kernel and their open requests, for the next server. Pure.

A server that is killed loses its connection to the kernel. If no host keeps the connection, the
next server does not receive the replies to earlier requests. The next server knows the requests
from a Handover that the first server has stored, sees on iopub which of them end, and replies on
behalf of the kernel. If a host keeps the messages, the Handover says which messages each client
has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat

import msgspec

from kernelproto.exceptions import MalformedMessage
from kernelproto.fanout.traffic import Request
from kernelproto.wire import tolerant_json
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Header, Message

# The most clients, requests and bytes of headers of one kernel. Requests beyond these bounds get no
# reply if the server is killed.
_MOST_CLIENTS = 100
_MOST_REQUESTS = 100
_MOST_BYTES = 64 * 1024


class _OpenRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    channel: ChannelName
    header: Header
    execution_count: int | None = None


class Handover(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The clients of a kernel and their open requests.

    Args:
        clients: the sessions of each client.
        requests: the open requests, oldest first.
        source: the id of the process that numbers the messages in *positions*.
        positions: for each client, the number of the client's last message; see ``KeepsMessages``.
            Without a *source* there are none.
    """

    clients: list[list[str]] = []
    requests: list[_OpenRequest] = []
    source: str = ""
    positions: list[int] = []

    @classmethod
    def of(
        cls,
        clients: Iterable[Iterable[str]],
        requests: Iterable[Request],
        *,
        source: str = "",
        positions: Iterable[int] = (),
    ) -> Handover:
        """Return the handover of these clients and requests, up to the bounds."""
        named = [
            (sessions, position)
            for client, position in zip(clients, positions if source else repeat(0), strict=False)
            if (sessions := [*filter(None, client)])
        ][-_MOST_CLIENTS:]
        return cls(
            clients=[sessions for sessions, _ in named],
            requests=list(_bounded(requests)),
            source=source,
            positions=[position for _, position in named] if source else [],
        )

    def position_of(self, client: int, source: str) -> int:
        """Return the number of a client's last message; 0 if unknown."""
        is_known = source == self.source and client < len(self.positions)
        return self.positions[client] if is_known else 0

    def to_json(self) -> str:
        """Return the handover as JSON."""
        return tolerant_json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Handover:
        """Return the handover that ``to_json`` has written.

        Raises:
            ValueError: the text is not a handover.
        """
        return msgspec.json.decode(text, type=cls)

    def open_requests(self) -> Iterator[Request]:
        """Yield the requests, without their contents."""
        for request in self.requests:
            message = Message.build(request.header, {})
            yield Request(message, request.channel, execution_count=request.execution_count)


def reply_content(request: Request) -> Mapping[str, object]:
    """Return the content of the reply to a request that the kernel has finished.

    The kernel has sent the reply to an earlier server. The reply to an execution follows from the
    messages on iopub; an execution without any, and other requests, count as aborted.
    """
    is_known = request.idle and request.begun
    if request.message.msg_type != "execute_request" or not is_known:
        return {"status": "aborted"}
    count = {"execution_count": _execution_count(request)}
    if request.error is not None:
        fields: dict[str, object]
        try:
            error = request.error.content
            fields = {name: getattr(error, name) for name in ("ename", "evalue", "traceback")}
        except (MalformedMessage, AttributeError):
            fields = {"ename": "", "evalue": "", "traceback": []}
        return {"status": "error", **fields, **count}
    return {"status": "ok", "user_expressions": {}, "payload": [], **count}


def _bounded(requests: Iterable[Request]) -> Iterator[_OpenRequest]:
    size = 0
    for number, request in enumerate(requests):
        size += len(request.message.raw_header)
        if number == _MOST_REQUESTS or size > _MOST_BYTES:
            return
        yield _OpenRequest(
            channel=request.channel,
            header=request.message.header,
            execution_count=_execution_count(request),
        )


def _execution_count(request: Request) -> int | None:
    if request.input is None:
        return request.execution_count
    try:
        count = request.input.content.execution_count
    except (MalformedMessage, AttributeError):
        return None
    return count if isinstance(count, int) else None
