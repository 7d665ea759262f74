"""The WebSocket of a kernel in jupyter_server, over the kernel's broadcast.

Each client has a cursor in the log of the kernel's messages (see ``fanout``). A client that comes
back, or a page that is loaded again, receives the missed messages. RFC 6455 obliges every client to
answer a ping with a pong, so a ping behind a message acknowledges the message.
"""

# jupyter_client types its methods as synchronous functions, which its asynchronous classes replace,
# and traitlets' types are unknown to pyright.
# mypy: disable-error-code="override"
# pyright: basic

from __future__ import annotations

import struct
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskStatus
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado import web
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import (
    KernelDied,
    KernelProtoError,
    LocalProtocolError,
    MalformedMessage,
)
from kernelproto.fanout.notices import beside, build_notice
from kernelproto.fanout.subscriber import Subscriber
from kernelproto.jupyter.server.limits import OutputLimit, Rates, hide_traceback
from kernelproto.supervise import Kernel
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Status, Stream
from kernelproto.wire.message import Message, with_version
from kernelproto.wire.websocket import server_framing

# Close codes of RFC 6455 and of the registry.
_GOING_AWAY = 1001
_UNUSABLE = 1007
_TRY_AGAIN_LATER = 1013

# A close frame has room for so many bytes of text.
_MOST_REASON_BYTES = 120

# The payload of a ping: the number of the next message. jupyter_server's own pings are empty.
_number = struct.Struct("!Q")

# A ping follows the last message for now, and at least every so many messages.
_MESSAGES_PER_PING = 16

# What tornado raises if the client has closed the WebSocket.
_CLOSED = (WebSocketClosedError, StreamClosedError)

# The longest time to deliver the last messages of a kernel that has ended.
_CLOSING_SECONDS = 5

# tornado reads from a client without waiting for the kernel: above these the WebSocket is closed.
_MOST_WAITING = 10_000
_MOST_WAITING_BYTES = 64 * 2**20


class KernelProtoWebsocketConnection(ZMQChannelsWebsocketConnection):
    """Forwards messages between one client and a kernel that kernelproto runs.

    The settings are those of ZMQChannelsWebsocketConnection. A kernel of another program, from
    ``external_connection_dir``, is served by that class itself.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._relay: _Relay | None = None

    @property
    def kernel_manager(self) -> Any:
        """The KernelManager of the kernel."""
        return self.parent

    async def prepare(self) -> None:
        """Wait until the kernel has started.

        Raises:
            HTTPError: 500, the kernel did not start.
        """
        manager = self.kernel_manager
        if not manager.owns_kernel:
            inherited: Any = super()
            await inherited.prepare()
            return
        try:
            await manager.ready
        except Exception as error:
            manager.set_state("dead", str(error))
            raise web.HTTPError(500, str(error)) from error

    async def connect(self) -> None:
        """Begin to forward messages."""
        if not self.kernel_manager.owns_kernel:
            inherited: Any = super()
            await inherited.connect()
            return
        self.multi_kernel_manager.notify_connect(self.kernel_id)
        self.websocket_handler.set_nodelay(True)
        self._relay = _Relay(self, self.kernel_manager.kernel)
        await self.multi_kernel_manager.start_task(self._relay.serve)

    def disconnect(self) -> None:
        """Leave the kernel; later messages are kept until a client comes back."""
        if self._relay is not None:
            relay, self._relay = self._relay, None
            relay.left.set()
            self.multi_kernel_manager.notify_disconnect(self.kernel_id)
        elif not self.kernel_manager.owns_kernel:
            inherited: Any = super()
            inherited.disconnect()

    def handle_incoming_message(self, incoming_msg: str | bytes) -> None:
        """Forward a message of the client to the kernel."""
        if self._relay is not None:
            self._relay.take(incoming_msg)
        elif not self.kernel_manager.owns_kernel:
            inherited: Any = super()
            inherited.handle_incoming_message(incoming_msg)

    def rates(self) -> Rates | None:
        """Return the limits for outputs; None if there are none."""
        if not self.limit_rate:
            return None
        return Rates(self.iopub_msg_rate_limit, self.iopub_data_rate_limit, self.rate_limit_window)


class _Close(Exception):
    """The server closes the WebSocket, with a code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class _Relay:
    """Forwards messages until the client has left, the kernel has ended or the server stops.

    Args:
        connection: the WebSocket, with the settings.
        kernel: the kernel.

    Attributes:
        left: set when the client has closed the WebSocket.
    """

    def __init__(self, connection: KernelProtoWebsocketConnection, kernel: Kernel) -> None:
        self.left = anyio.Event()
        self._kernel = kernel
        self._kernels: Any = connection.multi_kernel_manager
        self._handler: Any = connection.websocket_handler
        self._session = connection.session_id
        self._log = connection.log
        subprotocol = connection.subprotocol
        self._framing = server_framing([subprotocol] if subprotocol else [])
        rates = connection.rates()
        self._limit = None if rates is None else OutputLimit(rates)
        self._waiting: deque[str | bytes] = deque()
        self._waiting_bytes = 0
        self._more = Bell()
        self._is_flooded = anyio.Event()
        self._inherited_on_pong: Any = self._handler.on_pong

    def take(self, frame: str | bytes) -> None:
        """Add a frame of the client to those that wait for the kernel."""
        if (
            len(self._waiting) >= _MOST_WAITING
            or self._waiting_bytes + len(frame) > _MOST_WAITING_BYTES
        ):
            self._is_flooded.set()
            return
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        self._more.ring()

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Forward messages; the WebSocket is closed when this returns."""
        code, reason = _GOING_AWAY, "the server is shutting down"
        try:
            broadcast = self._kernels.broadcasts.of(self._kernel)
            with broadcast.join(self._session, self._handler.get_argument("last_msg_id", None)) as (
                subscriber
            ):
                self._handler.on_pong = partial(self._note_pong, subscriber)
                task_status.started()
                async with background_tasks() as tasks:
                    tasks.start_soon(self._send, subscriber)
                    tasks.start_soon(self._forward, subscriber)
                    tasks.start_soon(self._close_after, subscriber.cut_off, subscriber)
                    tasks.start_soon(self._close_after, self._is_flooded, subscriber)
                    tasks.start_soon(self._end_with_kernel, subscriber)
                    await self.left.wait()
        except _Close as closing:
            code, reason = closing.code, closing.reason
            self._log.info("closing a WebSocket of kernel %s: %s", self._kernel.kernel_id, reason)
        except Exception:
            reason = "the server has an internal error; its log has the details"
            self._log.exception("a WebSocket of kernel %s has failed", self._kernel.kernel_id)
        finally:
            if not self.left.is_set():
                shown = reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore")
                self._handler.close(code, shown)

    async def _forward(self, subscriber: Subscriber) -> None:
        allowed: list[str] = self._kernels.allowed_message_types
        while True:
            while not self._waiting:
                await self._more.wait()
            frame = self._waiting.popleft()
            self._waiting_bytes -= len(frame)
            try:
                channel, message = self._framing.decode(frame)
                message = with_version(message)
            except (MalformedMessage, LocalProtocolError) as error:
                raise _Close(_UNUSABLE, str(error)) from None
            if allowed and message.msg_type not in allowed:
                self._log.warning(
                    'Received message of type "%s", which is not allowed. Ignoring.',
                    message.msg_type[:100],
                )
            else:
                try:
                    await subscriber.forward(message, channel)
                except KernelProtoError as error:
                    raise _Close(_GOING_AWAY, str(error)) from None

    async def _send(self, subscriber: Subscriber) -> None:
        try:
            notice = subscriber.gap_notice()
            if notice is not None:
                await self._write(notice, "iopub")
            unacknowledged = 0
            while True:
                entry = await subscriber.next()
                await self._deliver(entry.message, entry.channel)
                subscriber.advance()
                unacknowledged += 1
                if unacknowledged == _MESSAGES_PER_PING or not subscriber.has_more:
                    self._handler.ping(_number.pack(subscriber.cursor.sent))
                    unacknowledged = 0
        except _CLOSED:
            await self.left.wait()
        except KernelProtoError as error:
            if isinstance(error, KernelDied):
                with suppress(*_CLOSED):
                    await self._write(build_notice(Status("dead")), "iopub")
            raise _Close(_GOING_AWAY, str(error)) from None

    def _note_pong(self, subscriber: Subscriber, data: bytes) -> None:
        """Acknowledge all messages before the ping that a pong answers."""
        self._inherited_on_pong(data)
        if len(data) == _number.size:
            (number,) = _number.unpack(data)
            subscriber.acknowledge(min(number, subscriber.cursor.sent))

    async def _deliver(self, message: Message, channel: ChannelName) -> None:
        if not self._kernels.allow_tracebacks:
            message = hide_traceback(message, self._kernels.traceback_replacement_message)
        if channel == "iopub" and self._limit is not None:
            is_sent, notice = self._limit.admit(message, time.monotonic())
            if notice is not None:
                self._log.warning("kernel %s: %s", self._kernel.kernel_id, notice)
                await self._write(beside(message, build_notice(Stream("stderr", notice))), "iopub")
            if not is_sent:
                return
        await self._write(message, channel)

    async def _write(self, message: Message, channel: ChannelName) -> None:
        try:
            frame = self._framing.encode(channel, message)
        except (LocalProtocolError, MalformedMessage) as error:
            self._log.warning(
                "cannot send a message of kernel %s: %s", self._kernel.kernel_id, error
            )
            return
        await self._handler.write_message(frame, binary=isinstance(frame, bytes))

    async def _close_after(self, event: anyio.Event, subscriber: Subscriber) -> None:
        await event.wait()
        raise _Close(
            _TRY_AGAIN_LATER,
            subscriber.reason or "too many messages of the client wait for the kernel",
        )

    async def _end_with_kernel(self, subscriber: Subscriber) -> None:
        """Close the WebSocket of a client that does not read the kernel's last messages."""
        await subscriber.broadcast.ended.wait()
        await anyio.sleep(_CLOSING_SECONDS)
        raise _Close(_GOING_AWAY, str(subscriber.broadcast.failure))
