"""A kernel's channels on a WebSocket: verify, route, forward.

Contents are not decoded. What a client sends keeps its header, so the kernel's replies name the
client session that they are for; the messages are signed with the kernel's key, which never leaves
the server. All clients of a kernel share the server's one connection to it.

A client that reads more slowly than its kernel writes has an outbox of its own. When that is full
the client is cut off, and nobody else has waited for it.
"""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import NoReturn

import anyio
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from kernelproto.background import background_tasks
from kernelproto.client import MessageStream
from kernelproto.exceptions import (
    KernelDied,
    KernelProtoError,
    LocalProtocolError,
    MalformedMessage,
    OutputOverflow,
)
from kernelproto.pool import PoolConnection
from kernelproto.server.answers import status_of
from kernelproto.server.desk import Desk
from kernelproto.server.guard import deny
from kernelproto.server.outbox import Outbox
from kernelproto.supervise import Died, Kernel, Restarted
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Status
from kernelproto.wire.message import PROTOCOL_VERSION, Header, Message
from kernelproto.wire.websocket import FROM_SERVER, Framing, server_framing

logger = logging.getLogger(__name__)

# Codes of RFC 6455 and of its registry.
GOING_AWAY = 1001
UNUSABLE = 1007
TRY_AGAIN_LATER = 1013

# How long a client that does not read may take to be told that it was cut off.
_CLOSING_SECONDS = 5

# A client has one session; one that has used more than this loses the replies to its first.
_MOST_SESSIONS = 100

_MOST_REASON_BYTES = 123


class ChannelsRoute:
    """The WebSockets of the kernels of whoever asks.

    Args:
        desk: has the kernels.
        max_message_bytes: of a client.
        send_buffer_bytes: how much may wait to be sent to one client.
    """

    def __init__(self, desk: Desk, *, max_message_bytes: int, send_buffer_bytes: int) -> None:
        self._desk = desk
        self._max_message_bytes = max_message_bytes
        self._send_buffer_bytes = send_buffer_bytes

    def routes(self) -> list[WebSocketRoute]:
        """Return the routes."""
        return [WebSocketRoute("/api/kernels/{kernel_id}/channels", self._serve)]

    async def _serve(self, websocket: WebSocket) -> None:
        framing = server_framing(websocket.scope["subprotocols"], max_size=self._max_message_bytes)
        try:
            kernel = self._desk.find(websocket.user, websocket.path_params["kernel_id"])
            async with self._desk.pool.connection(
                kernel.user, name=kernel.name, channels=FROM_SERVER
            ) as connection:
                await websocket.accept(framing.subprotocol)
                await ClientConnection(
                    websocket, framing, connection, limit=self._send_buffer_bytes
                ).serve()
        except HTTPException as error:
            await deny(websocket, error.status_code, error.detail)
        except KernelProtoError as error:  # it could not be started, or was ended just now
            await deny(websocket, status_of(error), str(error).partition("\n")[0])


class _HangUp(Exception):
    """The connection ends, with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class ClientConnection:
    """One client of one kernel, for as long as its WebSocket is open.

    Args:
        websocket: was accepted.
        framing: that was agreed on.
        connection: to the kernel.
        limit: how many bytes may wait to be sent.
    """

    def __init__(
        self, websocket: WebSocket, framing: Framing, connection: PoolConnection, *, limit: int
    ) -> None:
        self._websocket = websocket
        self._framing = framing
        self._kernel: Kernel = connection.kernel
        self._messages: MessageStream = connection.messages
        self._outbox = Outbox(limit)
        # Insertion-ordered: the client sessions whose replies belong here.
        self._sessions: dict[str, None] = {}
        self._note_session(websocket.query_params.get("session_id", ""))

    async def serve(self) -> None:
        """Forward both ways until either end is gone."""
        try:
            async with background_tasks() as tasks:
                tasks.start_soon(self._take_from_kernel)
                tasks.start_soon(self._tell_of_restarts)
                tasks.start_soon(self._send)
                await self._take_from_client()
        except _HangUp as goodbye:
            logger.info("a client of kernel %s: %s", self._kernel.kernel_id, goodbye.reason)
            with anyio.move_on_after(_CLOSING_SECONDS), suppress(WebSocketDisconnect):
                await self._websocket.close(goodbye.code, _short(goodbye.reason))

    async def _take_from_client(self) -> None:
        while True:
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                return
            data = event.get("text")
            try:
                channel, message = self._framing.decode(event["bytes"] if data is None else data)
            except MalformedMessage as error:
                raise _HangUp(UNUSABLE, str(error)) from None
            self._note_session(message.header.session)
            try:
                client = await self._kernel.generations.client()
                await client.forward(message, channel)
            except KernelProtoError as error:
                raise _HangUp(GOING_AWAY, str(error)) from None

    async def _take_from_kernel(self) -> NoReturn:
        try:
            async for message, channel in self._messages:
                if self._is_for_client(message, channel):
                    self._put(message, channel)
        except OutputOverflow as error:
            raise _HangUp(TRY_AGAIN_LATER, str(error)) from None
        except KernelProtoError as error:
            if isinstance(error, KernelDied):
                self._put(_status("dead"), "iopub")
            goodbye = _HangUp(GOING_AWAY, str(error))
            # The kernel's last words go first, unless the client does not want to hear them.
            self._outbox.end(goodbye)
            await anyio.sleep(_CLOSING_SECONDS)
            raise goodbye from None
        raise AssertionError("a stream of messages ends with an exception")

    async def _tell_of_restarts(self) -> None:
        """Say what the kernel cannot say itself."""
        async for event in self._kernel.events():
            by_hand = isinstance(event, Restarted) and not event.auto
            if by_hand or (isinstance(event, Died) and self._kernel.state == "restarting"):
                self._put(_status("restarting"), "iopub")

    async def _send(self) -> None:
        with suppress(WebSocketDisconnect):  # of which the other direction is told as well
            while True:
                frame = await self._outbox.get()
                if isinstance(frame, str):
                    await self._websocket.send_text(frame)
                else:
                    await self._websocket.send_bytes(frame)

    def _put(self, message: Message, channel: ChannelName) -> None:
        try:
            frame = self._framing.encode(channel, message)
        except (LocalProtocolError, MalformedMessage) as error:
            logger.warning("a message of kernel %s is lost: %s", self._kernel.kernel_id, error)
            return
        if not self._outbox.put(frame):
            raise _HangUp(TRY_AGAIN_LATER, "too slow: more output waits than the server keeps")

    def _is_for_client(self, message: Message, channel: ChannelName) -> bool:
        if channel == "iopub":
            return message.msg_type != "iopub_welcome"  # that one greets the server
        parent = message.parent_header
        return parent is not None and parent.session in self._sessions

    def _note_session(self, session: str) -> None:
        if session and session not in self._sessions:
            self._sessions[session] = None
            if len(self._sessions) > _MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]


def _status(state: str) -> Message:
    header = Header(
        msg_id=uuid.uuid4().hex,
        msg_type="status",
        session=uuid.uuid4().hex,
        username="kernel",
        date=datetime.now(UTC).isoformat(),
        version=PROTOCOL_VERSION,
    )
    return Message.build(header, Status(state))


def _short(reason: str) -> str:
    """Return as much of a reason as a close frame has room for."""
    line = reason.partition("\n")[0]
    return line.encode()[:_MOST_REASON_BYTES].decode(errors="ignore")
