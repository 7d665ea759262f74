"""A kernel's channels on a WebSocket: verify, route, forward.

Contents are not decoded. What a client sends keeps its header, so the kernel's replies name the
client session that they are for; only a version is added where there is none. The messages are
signed with the kernel's key, which never leaves the server. All clients of a kernel share the
server's one connection to it.

A client that reads more slowly than its kernel writes has a place of its own in what the kernel has
sent. When that is not kept any longer the client is cut off, and nobody else has waited for it.

A client whose WebSocket is lost, and that comes back, gets everything that has come meanwhile, and
what its WebSocket had not confirmed (see ``receipts``): nothing is missing, but what was under way
may come again, under the same ``msg_id``. With ``?last_msg_id=`` it says which message it has read
last, and gets exactly what follows. What could not be kept for it is told in an output.
"""

from __future__ import annotations

import itertools
import logging
import time
from contextlib import suppress
from functools import partial
from typing import NoReturn, cast

import anyio
from anyio.lowlevel import checkpoint
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import (
    ClientClosed,
    KernelDied,
    KernelProtoError,
    LocalProtocolError,
    MalformedMessage,
)
from kernelproto.fanout.broadcast import Broadcast, Broadcasts, Subscriber, build_notice
from kernelproto.fanout.replay_log import Entry
from kernelproto.fanout.traffic import Traffic
from kernelproto.log_fields import logging_about
from kernelproto.server.asgi_extension import EXTENSION, OnAcknowledged
from kernelproto.server.auth.revocation import Access
from kernelproto.server.connections import UserSockets
from kernelproto.server.drain import SHUTTING_DOWN, Drain
from kernelproto.server.middleware.access import deny, user_request
from kernelproto.server.responses import status_of
from kernelproto.server.telemetry.audit import audit
from kernelproto.server.user_kernels import UserKernels
from kernelproto.server.user_messages import close_reason, user_message
from kernelproto.supervise import Kernel
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Status
from kernelproto.wire.message import Message, with_version
from kernelproto.wire.websocket import Framing, server_framing

logger = logging.getLogger(__name__)

# Codes of RFC 6455 and of its registry.
GOING_AWAY = 1001
_NO_CODE = 1005
UNUSABLE = 1007
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
# One of those for applications, after the status of HTTP.
UNAUTHORIZED = 4401

_REVOKED = "Your access has ended: sign in again, or ask the administrator of this server."

# How long a client that does not read may take to be told that it was cut off.
_CLOSING_SECONDS = 5

_SENT_BETWEEN_CHECKPOINTS = 256
_TAKEN_BETWEEN_CHECKPOINTS = 8


_TOO_MANY = "you have too many WebSockets (max_websockets_per_user): close one, then try again"

# Of what clients call themselves and their messages: it is kept, and compared.
_MOST_ID_CHARACTERS = 256


class ChannelsRoute:
    """The WebSockets of the kernels of whoever asks.

    Args:
        user_kernels: has the kernels.
        broadcasts: have what the kernels send.
        traffic: counts the messages.
        access: tells when a user is not let in any more.
        drain: says when the server ends.
        sockets: bound the WebSockets of each user.
        max_message_bytes: of a client.
    """

    def __init__(
        self,
        user_kernels: UserKernels,
        broadcasts: Broadcasts,
        traffic: Traffic,
        access: Access,
        drain: Drain,
        sockets: UserSockets,
        *,
        max_message_bytes: int,
    ) -> None:
        self._desk = user_kernels
        self._feeds = broadcasts
        self._traffic = traffic
        self._access = access
        self._drain = drain
        self._sockets = sockets
        self._max_message_bytes = max_message_bytes

    def routes(self) -> list[WebSocketRoute]:
        """Return the routes."""
        return [WebSocketRoute("/api/kernels/{kernel_id}/channels", self._serve)]

    async def _serve(self, websocket: WebSocket) -> None:
        for name in ("session_id", "last_msg_id"):
            if len(websocket.query_params.get(name, "")) > _MOST_ID_CHARACTERS:
                message = f"{name} may have {_MOST_ID_CHARACTERS} characters at the most"
                await _deny(websocket, 400, message)
                return
        with self._sockets.place(websocket.user.name) as has_room:
            if has_room:
                await self._connect(websocket)
            else:  # a WebSocket that is accepted and closed takes a connection for longer
                await _deny(websocket, 503, _TOO_MANY)

    async def _connect(self, websocket: WebSocket) -> None:
        framing = server_framing(websocket.scope["subprotocols"], max_size=self._max_message_bytes)
        try:
            if self._drain.begun:
                raise HTTPException(503, SHUTTING_DOWN)
            kernel = self._desk.find(websocket.user, websocket.path_params["kernel_id"])
            async with self._desk.pool.connection(
                kernel.user, name=kernel.name, channels=()
            ) as connection:
                broadcast = self._feeds.of(connection.kernel)
                with logging_about(kernel_id=kernel.kernel_id), self._drain.connection():
                    await serve_client(
                        websocket,
                        framing,
                        connection.kernel,
                        broadcast,
                        self._traffic,
                        self._access,
                        self._drain,
                    )
        except HTTPException as error:
            await _deny(websocket, error.status_code, error.detail)
        except KernelProtoError as error:  # it could not be started, or was ended just now
            await _deny(websocket, status_of(error), user_message(error))


async def _deny(websocket: WebSocket, status: int, reason: str) -> None:
    kernel_id: str = websocket.path_params["kernel_id"]
    audit("websocket.open", "refused", kernel_id=kernel_id, reason=reason)
    await deny(websocket, status, reason)


class _HangUp(Exception):
    """The connection ends, with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


async def serve_client(
    websocket: WebSocket,
    framing: Framing,
    kernel: Kernel,
    broadcast: Broadcast,
    traffic: Traffic,
    access: Access,
    drain: Drain,
) -> None:
    """Forward messages between a client and its kernel until either is gone, or access is revoked.

    Args:
        websocket: it is accepted when nothing of what the kernel sends can be missed.
        framing: the one to agree on.
        kernel: the kernel.
        broadcast: what it sends.
        traffic: counts the messages.
        access: tells when the user is not let in any more.
        drain: says when the server ends.
    """
    session = websocket.query_params.get("session_id", "")
    last_msg_id = websocket.query_params.get("last_msg_id")
    try:
        with broadcast.join(session, last_msg_id) as subscriber:
            await websocket.accept(framing.subprotocol)
            audit("websocket.open", "ok", kernel_id=kernel.kernel_id)
            code = await _ClientConnection(
                websocket, framing, kernel, subscriber, traffic, access, drain
            ).serve()
        audit("websocket.close", "ok", kernel_id=kernel.kernel_id, by="client", code=code)
    except _HangUp as goodbye:  # whoever comes back now need not wait for the end of this
        text, key = "a client of kernel %s: %s", f"closed {goodbye.code}"
        broadcast.log_counts.log(logger, logging.INFO, key, text, kernel.kernel_id, goodbye.reason)
        audit(
            "websocket.close",
            "ok",
            kernel_id=kernel.kernel_id,
            by="server",
            code=goodbye.code,
            reason=goodbye.reason,
        )
        if websocket.application_state is not WebSocketState.CONNECTED:
            return  # a send has failed, and the server does not know yet that the client is gone
        with anyio.move_on_after(_CLOSING_SECONDS), suppress(WebSocketDisconnect):
            await websocket.close(goodbye.code, close_reason(goodbye.reason))


class _ClientConnection:
    def __init__(
        self,
        websocket: WebSocket,
        framing: Framing,
        kernel: Kernel,
        subscriber: Subscriber,
        traffic: Traffic,
        access: Access,
        drain: Drain,
    ) -> None:
        self._websocket = websocket
        self._framing = framing
        self._kernel = kernel
        self._subscriber = subscriber
        self._traffic = traffic
        self._access = access
        self._drain = drain
        self._requests = traffic.requests()
        self._has_receipts = EXTENSION in websocket.scope.get("extensions", {})

    async def serve(self) -> int:
        """Forward messages until the client closes the WebSocket; return its code."""
        async with background_tasks() as tasks:
            tasks.start_soon(self._send)
            tasks.start_soon(self._keep_up)
            tasks.start_soon(self._end_with_kernel)
            tasks.start_soon(self._end_with_access)
            tasks.start_soon(self._end_with_server)
            return await self._take_from_client()

    async def _take_from_client(self) -> int:
        taken = 0
        while True:
            taken += 1
            if taken % _TAKEN_BETWEEN_CHECKPOINTS == 0:
                await checkpoint()  # what has come already is taken without waiting
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                self._subscriber.leave()  # the client may be back in the next turn of the loop
                return cast(int, event.get("code", _NO_CODE))
            data = event.get("text")
            try:
                channel, message = self._framing.decode(event["bytes"] if data is None else data)
                message = with_version(message)
            except (MalformedMessage, LocalProtocolError) as error:
                raise _HangUp(UNUSABLE, str(error)) from None
            self._subscriber.cursor.note_session(message.header.session)
            self._traffic.received += 1
            self._requests.note_sent(message, time.monotonic())
            await self._forward(message, channel)

    async def _forward(self, message: Message, channel: ChannelName) -> None:
        """Send a client's message to the kernel, or answer it if there is no process for it.

        If the kernel has ended, the client may still have outputs to receive: the connection goes
        on, and ``_send`` ends it after them.
        """
        broadcast = self._subscriber.broadcast
        was_noted = False
        try:
            client = await self._kernel.current_client()
            broadcast.note_request(message, channel)
            was_noted = True
            await client.forward(message, channel)
        except KernelProtoError as error:
            if broadcast.failure is None and not isinstance(error, (ClientClosed, KernelDied)):
                raise _HangUp(GOING_AWAY, user_message(error)) from None
            if not was_noted:
                broadcast.note_request(message, channel)
            broadcast.abort(message.msg_id)

    async def _send(self) -> None:
        with suppress(WebSocketDisconnect):  # of which the other direction is told as well
            apology = self._subscriber.apology()
            if apology is not None:
                await self._deliver(apology, "iopub", self._subscriber.cursor.sent)
            for count in itertools.count(1):
                kept = await self._next()
                await self._deliver(kept.message, kept.channel, self._subscriber.cursor.sent + 1)
                self._subscriber.advance()
                if count % _SENT_BETWEEN_CHECKPOINTS == 0:
                    await checkpoint()

    async def _next(self) -> Entry:
        try:
            return await self._subscriber.next()
        except KernelProtoError as error:
            if isinstance(error, KernelDied):  # each client is told, and once
                await self._send_message(build_notice(Status("dead")), "iopub")
            raise _HangUp(GOING_AWAY, user_message(error)) from None

    async def _deliver(self, message: Message, channel: ChannelName, number: int) -> None:
        """Send a message with which a client has received everything before that number."""
        received = partial(self._subscriber.acknowledge, number)
        await self._send_message(message, channel, received)
        if not self._has_receipts:  # what the socket has taken counts as received
            received()

    async def _send_message(
        self, message: Message, channel: ChannelName, on_receipt: OnAcknowledged | None = None
    ) -> None:
        try:
            frame = self._framing.encode(channel, message)
        except (LocalProtocolError, MalformedMessage) as error:
            text, kernel_id = "a message of kernel %s is lost: %s", self._kernel.kernel_id
            counts = self._subscriber.broadcast.log_counts
            counts.log(logger, logging.WARNING, "lost", text, kernel_id, error)
            return
        self._traffic.sent += 1
        if channel != "iopub":
            self._requests.note_answer(message, channel, time.monotonic())
        key = "text" if isinstance(frame, str) else "bytes"
        event: dict[str, object] = {"type": "websocket.send", key: frame}
        if self._has_receipts:
            event[EXTENSION] = on_receipt
        await self._websocket.send(event)

    async def _keep_up(self) -> NoReturn:
        await self._subscriber.cut_off.wait()
        raise _HangUp(TRY_AGAIN_LATER, self._subscriber.reason)

    async def _end_with_server(self) -> NoReturn:
        await self._drain.closing.wait()
        raise _HangUp(SERVICE_RESTART, SHUTTING_DOWN)

    async def _end_with_access(self) -> NoReturn:
        request = user_request(self._websocket.scope)
        await self._access.wait_until_revoked(self._websocket.user, request)
        raise _HangUp(UNAUTHORIZED, _REVOKED)

    async def _end_with_kernel(self) -> NoReturn:
        """Let a client have the kernel's last words, unless it does not want to hear them."""
        await self._subscriber.broadcast.ended.wait()
        await anyio.sleep(_CLOSING_SECONDS)
        failure = self._subscriber.broadcast.failure
        reason = user_message(failure) if isinstance(failure, KernelProtoError) else str(failure)
        raise _HangUp(GOING_AWAY, reason)
