"""The WebSocket of a kernel: decode, route and forward messages.

The server does not decode contents. The server keeps the header of a client's message, so the
kernel's replies name the client's session; a missing version is added. The server signs the
messages with the kernel's key, which never leaves the server. All clients of a kernel share one
connection to the kernel.

Each client has its own cursor in the log of the kernel's messages (see ``fanout``). A slow client
delays no other client; the server disconnects a client when the log deletes a message that the
client needs.

A client that reconnects receives the missed messages and those that its WebSocket had not
acknowledged (see ``program.acknowledgements``). A message in transit may arrive twice, with the
same ``msg_id``. One acknowledgement covers all messages of a short request, so a message of a
running request counts as in transit for up to 10 ms longer. A client that reconnects with
``?last_msg_id=`` receives exactly the messages after that one. If messages were deleted before, an
output says so.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, NoReturn, cast

import anyio
from anyio.lowlevel import checkpoint
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import (
    KernelDied,
    KernelProtoError,
    LocalProtocolError,
    MalformedMessage,
)
from kernelproto.fanout.broadcast import Broadcast
from kernelproto.fanout.broadcasts import Broadcasts
from kernelproto.fanout.notices import build_notice
from kernelproto.fanout.replay_log import Entry
from kernelproto.fanout.subscriber import Subscriber
from kernelproto.fanout.traffic import Traffic, announces_more
from kernelproto.log_fields import logging_about
from kernelproto.server.asgi_extension import EXTENSION, SEND_AT_ONCE, OnAcknowledged, SendAtOnce
from kernelproto.server.auth.revocation import Access
from kernelproto.server.connections import UserSockets
from kernelproto.server.drain import SHUTTING_DOWN, Drain
from kernelproto.server.kept_clients import KeptClients
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

# Close codes of RFC 6455 and of the registry.
GOING_AWAY = 1001
_NO_CODE = 1005
UNUSABLE = 1007
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
# An application's own code, derived from HTTP status 401.
UNAUTHORIZED = 4401

_REVOKED = "Your access has ended: sign in again, or ask the administrator of this server."

# The longest time to send a close frame to a client that does not read, and to deliver the last
# messages of a kernel that has ended.
_CLOSING_SECONDS = 5

_SENT_BETWEEN_CHECKPOINTS = 256
_TAKEN_BETWEEN_CHECKPOINTS = 8

_TOO_MANY = "you have too many WebSockets (max_websockets_per_user): close one, then try again"

# The limit for session_id and last_msg_id, because the server stores and compares them.
_MOST_ID_CHARACTERS = 256


class ChannelsRoute:
    """The WebSockets of the kernels, each for the kernel's own user.

    Args:
        user_kernels: finds the kernels.
        broadcasts: the messages of the kernels.
        traffic: counts messages.
        access: notices that a user's access is revoked.
        drain: announces the end of the server.
        sockets: limits the WebSockets of each user.
        kept: stores the clients of each kernel for the next server.
        max_message_bytes: the maximum size of a client's message.
    """

    def __init__(
        self,
        user_kernels: UserKernels,
        broadcasts: Broadcasts,
        traffic: Traffic,
        access: Access,
        drain: Drain,
        sockets: UserSockets,
        kept: KeptClients,
        *,
        max_message_bytes: int,
    ) -> None:
        self._user_kernels = user_kernels
        self._broadcasts = broadcasts
        self._traffic = traffic
        self._access = access
        self._drain = drain
        self._sockets = sockets
        self._kept = kept
        self._max_message_bytes = max_message_bytes

    def routes(self) -> list[WebSocketRoute]:
        """Return the routes."""
        return [WebSocketRoute("/api/kernels/{kernel_id}/channels", self._serve)]

    async def _serve(self, websocket: WebSocket) -> None:
        for name in ("session_id", "last_msg_id"):
            if len(websocket.query_params.get(name, "")) > _MOST_ID_CHARACTERS:
                message = (
                    f"{name} is too long: at most {_MOST_ID_CHARACTERS} characters are allowed"
                )
                await _deny(websocket, 400, message)
                return
        with self._sockets.place(websocket.user.name) as has_room:
            if has_room:
                await self._connect(websocket)
            else:  # refused in the handshake, which frees the connection sooner than a close frame
                await _deny(websocket, 503, _TOO_MANY)

    async def _connect(self, websocket: WebSocket) -> None:
        framing = server_framing(websocket.scope["subprotocols"], max_size=self._max_message_bytes)
        try:
            if self._drain.begun:
                raise HTTPException(503, SHUTTING_DOWN)
            kernel = self._user_kernels.find(websocket.user, websocket.path_params["kernel_id"])
            async with self._user_kernels.pool.connection(
                kernel.user, name=kernel.name, channels=()
            ) as connection:
                broadcast = self._broadcasts.of(connection.kernel)
                self._kept.store(broadcast, kernel.user, kernel.name)
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
        except KernelProtoError as error:  # the kernel failed to start or has just ended
            await _deny(websocket, status_of(error), user_message(error))


async def _deny(websocket: WebSocket, status: int, reason: str) -> None:
    kernel_id: str = websocket.path_params["kernel_id"]
    audit("websocket.open", "refused", kernel_id=kernel_id, reason=reason)
    await deny(websocket, status, reason)


class _Close(Exception):
    """The server closes the WebSocket, with a code and a reason."""

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
    """Forward messages until the client or kernel is gone, or the server closes the WebSocket.

    Args:
        websocket: the WebSocket, accepted once the client has a cursor.
        framing: the framing of messages on the WebSocket.
        kernel: the kernel.
        broadcast: the kernel's messages.
        traffic: counts messages.
        access: notices that the user's access is revoked.
        drain: announces the end of the server.
    """
    session = websocket.query_params.get("session_id", "")
    last_msg_id = websocket.query_params.get("last_msg_id")
    try:
        await broadcast.until_ready()
        with broadcast.join(session, last_msg_id) as subscriber:
            await websocket.accept(framing.subprotocol)
            audit("websocket.open", "ok", kernel_id=kernel.kernel_id)
            code = await _ClientConnection(
                websocket, framing, kernel, subscriber, traffic, access, drain
            ).serve()
        audit("websocket.close", "ok", kernel_id=kernel.kernel_id, by="client", code=code)
    except _Close as closing:  # the client has left its cursor, and may reconnect meanwhile
        text, key = "closing a WebSocket of kernel %s: %s", f"closed {closing.code}"
        broadcast.log_counts.log(logger, logging.INFO, key, text, kernel.kernel_id, closing.reason)
        audit(
            "websocket.close",
            "ok",
            kernel_id=kernel.kernel_id,
            by="server",
            code=closing.code,
            reason=closing.reason,
        )
        if websocket.application_state is not WebSocketState.CONNECTED:
            return  # a send has failed, but the disconnect has not been received yet
        with anyio.move_on_after(_CLOSING_SECONDS), suppress(WebSocketDisconnect):
            await websocket.close(closing.code, close_reason(closing.reason))


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
        extensions: Mapping[str, dict[str, Any]] = websocket.scope.get("extensions", {})
        self._has_acknowledgements = EXTENSION in extensions
        self._send_at_once: SendAtOnce | None = extensions.get(EXTENSION, {}).get(SEND_AT_ONCE)

    async def serve(self) -> int:
        """Forward messages until the client closes the WebSocket; return the close code."""
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
                await checkpoint()  # receive() does not yield while messages are buffered
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                self._subscriber.leave()  # at once: the client may reconnect immediately
                return cast(int, event.get("code", _NO_CODE))
            data = event.get("text")
            try:
                channel, message = self._framing.decode(event["bytes"] if data is None else data)
                message = with_version(message)
            except (MalformedMessage, LocalProtocolError) as error:
                raise _Close(UNUSABLE, str(error)) from None
            self._traffic.received += 1
            self._requests.note_sent(message, time.monotonic())
            await self._forward(message, channel)

    async def _forward(self, message: Message, channel: ChannelName) -> None:
        try:
            await self._subscriber.forward(message, channel)
        except KernelProtoError as error:
            raise _Close(GOING_AWAY, user_message(error)) from None

    async def _send(self) -> None:
        with suppress(WebSocketDisconnect):  # _take_from_client receives the disconnect
            notice = self._subscriber.gap_notice()
            if notice is not None:
                await self._deliver(notice, "iopub", self._subscriber.cursor.sent)
            at_once = self._at_once()
            for count in itertools.count(1):
                entry = await self._next(at_once)
                await self._deliver(entry.message, entry.channel, self._subscriber.cursor.sent + 1)
                self._subscriber.advance()
                if count % _SENT_BETWEEN_CHECKPOINTS == 0:
                    await checkpoint()

    async def _next(self, at_once: Callable[[Entry], bool] | None) -> Entry:
        try:
            return await self._subscriber.next(at_once)
        except KernelProtoError as error:
            if isinstance(error, KernelDied):  # once for each client
                await self._send_message(build_notice(Status("dead")), "iopub")
            raise _Close(GOING_AWAY, user_message(error)) from None

    def _at_once(self) -> Callable[[Entry], bool] | None:
        """Return a function that sends a message if the client is ready; None if unsupported."""
        send = self._send_at_once
        if send is None:
            return None
        context = copy_context()  # with the log fields of this task
        return lambda entry: context.run(self._deliver_at_once, send, entry)

    def _deliver_at_once(self, send: SendAtOnce, entry: Entry) -> bool:
        """Send a message if the client is ready; return whether the message needs no other send."""
        frame = self._encode(entry.message, entry.channel)
        if frame is None:
            return True
        acknowledge = partial(self._subscriber.acknowledge, self._subscriber.cursor.sent + 1)
        if not send(frame, acknowledge, announces_more(entry.message)):
            return False
        self._count(entry.message, entry.channel)
        return True

    async def _deliver(self, message: Message, channel: ChannelName, number: int) -> None:
        """Send a message; the acknowledgement covers every message before a number."""
        acknowledge = partial(self._subscriber.acknowledge, number)
        await self._send_message(message, channel, acknowledge)
        if not self._has_acknowledgements:  # then a sent message counts as received
            acknowledge()

    async def _send_message(
        self, message: Message, channel: ChannelName, on_acknowledged: OnAcknowledged | None = None
    ) -> None:
        frame = self._encode(message, channel)
        if frame is None:
            return
        self._count(message, channel)
        key = "text" if isinstance(frame, str) else "bytes"
        event: dict[str, object] = {"type": "websocket.send", key: frame}
        if self._has_acknowledgements:
            event[EXTENSION] = on_acknowledged
        await self._websocket.send(event)

    def _encode(self, message: Message, channel: ChannelName) -> bytes | str | None:
        """Return the frame of a message; None if it cannot be sent, which is logged."""
        try:
            return self._framing.encode(channel, message)
        except (LocalProtocolError, MalformedMessage) as error:
            text, kernel_id = "cannot send a message of kernel %s: %s", self._kernel.kernel_id
            counts = self._subscriber.broadcast.log_counts
            counts.log(logger, logging.WARNING, "lost", text, kernel_id, error)
            return None

    def _count(self, message: Message, channel: ChannelName) -> None:
        self._traffic.sent += 1
        if channel != "iopub":
            self._requests.note_answer(message, channel, time.monotonic())

    async def _keep_up(self) -> NoReturn:
        await self._subscriber.cut_off.wait()
        raise _Close(TRY_AGAIN_LATER, self._subscriber.reason)

    async def _end_with_server(self) -> NoReturn:
        await self._drain.closing.wait()
        raise _Close(SERVICE_RESTART, SHUTTING_DOWN)

    async def _end_with_access(self) -> NoReturn:
        request = user_request(self._websocket.scope)
        await self._access.wait_until_revoked(self._websocket.user, request)
        raise _Close(UNAUTHORIZED, _REVOKED)

    async def _end_with_kernel(self) -> NoReturn:
        """Close the WebSocket of a client that does not read the kernel's last messages."""
        await self._subscriber.broadcast.ended.wait()
        await anyio.sleep(_CLOSING_SECONDS)
        failure = self._subscriber.broadcast.failure
        reason = user_message(failure) if isinstance(failure, KernelProtoError) else str(failure)
        raise _Close(GOING_AWAY, reason)
