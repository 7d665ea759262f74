"""The five channels to one kernel: each has a socket and a receiving task, in one task group."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import anyio
import zmq
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import ClientClosed, LocalProtocolError
from kernelproto.interfaces import Channels, Deliver
from kernelproto.shortage import require_descriptors
from kernelproto.transport.curve import encrypt, new_curve_keys
from kernelproto.transport.raw import RawSocket
from kernelproto.transport.sockets import MessageSocket, open_socket, shared_context
from kernelproto.wire.connection import CHANNEL_NAMES, ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame

_SOCKET_TYPES = {
    "shell": zmq.DEALER,
    "iopub": zmq.SUB,
    "stdin": zmq.DEALER,
    "control": zmq.DEALER,
    # A DEALER that sends an empty frame first is a REQ that cannot get stuck on a lost echo.
    "hb": zmq.DEALER,
}

# The number of small frames that every message on a channel begins with: topic, delimiter,
# signature, header and parent header; from kernels without topics, all until the content.
_HEAD_FRAMES: Mapping[ChannelName, int] = {"iopub": 5}

# The kernel binds after the client connects. libzmq's default interval of 100 ms would delay that.
_RECONNECT_MS = 2
_RECONNECT_MAX_MS = 50

# How long messages that were sent just before an orderly close may take to leave.
_LINGER_MS = 100
_LINGERING = ("shell", "stdin", "control")

_SENDS_BETWEEN_CHECKPOINTS = 32

# One for each socket and one for the connection.
_DESCRIPTORS = 2 * len(CHANNEL_NAMES)


class _ZmqChannels:
    """Implements Channels."""

    def __init__(self, sockets: dict[ChannelName, MessageSocket]) -> None:
        self._sockets = sockets
        self.abandoned = False
        self._sends = 0
        self._closed = False
        self._blocked: set[anyio.CancelScope] = set()
        self._unblocked = anyio.Event()

    async def send(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        # A cancelled task must not send. A full checkpoint would delay the request by a turn of the
        # event loop, so only one send in 32 has one.
        self._sends += 1
        if self._sends % _SENDS_BETWEEN_CHECKPOINTS == 0:
            await checkpoint()
        else:
            await checkpoint_if_cancelled()
        if self._closed:
            raise ClientClosed("the channels to the kernel are closed")
        socket = self._sockets[channel]
        # Messages must not overtake those that wait for room.
        if not self._blocked and socket.try_send(frames):
            return
        with anyio.CancelScope() as scope:
            self._blocked.add(scope)
            try:
                await socket.send(frames)
            finally:
                self._blocked.discard(scope)
                if self._closed and not self._blocked:
                    self._unblocked.set()
        if scope.cancelled_caught:
            raise ClientClosed("the channels were closed while this message waited to be sent")

    def abandon(self) -> None:
        self.abandoned = True
        self._refuse_senders()

    async def receive(self, channel: ChannelName, deliver: Deliver) -> None:
        """Deliver every message of *channel* until cancelled."""
        await self._sockets[channel].listen(partial(deliver, channel))

    async def release_senders(self) -> None:
        """Refuse to send from now on, and wait until no sender uses a socket any more."""
        self._refuse_senders()
        if self._blocked:
            # Cancelled senders need one turn of the event loop, which this close must not skip.
            with anyio.CancelScope(shield=True):
                await self._unblocked.wait()

    def _refuse_senders(self) -> None:
        self._closed = True
        for scope in self._blocked:
            scope.cancel()


@asynccontextmanager
async def open_channels(
    info: ConnectionInfo,
    deliver: Deliver,
    *,
    identity: bytes,
    topics: Sequence[bytes] = (b"",),
) -> AsyncGenerator[Channels]:
    """Open the channels to a kernel, which may begin to listen later.

    Args:
        info: the kernel's addresses.
        deliver: called with the channel and the frames of every message that arrives, in order; a
            plain function that must neither block nor raise.
        identity: the routing identity; shell and stdin need the same.
        topics: the iopub subscriptions.

    Raises:
        LocalProtocolError: *info* has an invalid address, or requires encryption, which this pyzmq
            does not support.
        OSError: too few file descriptors are left.
    """
    with _open_channels(info, identity, topics) as channels:
        async with background_tasks() as tasks:
            for name in CHANNEL_NAMES:
                tasks.start_soon(channels.receive, name, deliver, name=f"kernel channel {name}")
            try:
                yield channels
            finally:
                await channels.release_senders()


@contextmanager
def _open_channels(
    info: ConnectionInfo, identity: bytes, topics: Sequence[bytes]
) -> Generator[_ZmqChannels]:
    sockets: dict[ChannelName, MessageSocket] = {}
    keys = new_curve_keys() if info.encrypted else None
    channels = _ZmqChannels(sockets)
    orderly = False
    with shared_context() as context:
        require_descriptors(_DESCRIPTORS)
        try:
            for name in CHANNEL_NAMES:
                sockets[name] = open_socket(
                    context, _SOCKET_TYPES[name], head=_HEAD_FRAMES.get(name, 0)
                )
                _configure(sockets[name].raw, name, identity, topics)
                if keys is not None:
                    encrypt(sockets[name].raw, keys, kernel_publickey=info.curve_publickey)
                _connect(sockets[name].raw, info.endpoint(name))
            yield channels
            orderly = not channels.abandoned
        finally:
            for name, socket in sockets.items():
                socket.close(_LINGER_MS if orderly and name in _LINGERING else 0)


def _connect(raw: RawSocket, endpoint: str) -> None:
    try:
        raw.connect(endpoint)
    except zmq.ZMQError as error:
        raise LocalProtocolError(f"cannot connect: {error.strerror}") from None


def _configure(
    raw: RawSocket, channel: ChannelName, identity: bytes, topics: Sequence[bytes]
) -> None:
    raw.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
    raw.set(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    # No limit: while the application is busy, libzmq's thread goes on reading. At a limit, the
    # kernel would discard outputs and replies.
    raw.set(zmq.RCVHWM, 0)
    if channel == "iopub":
        for topic in topics:
            raw.set(zmq.SUBSCRIBE, topic)
    else:
        raw.set(zmq.ROUTING_ID, identity)
