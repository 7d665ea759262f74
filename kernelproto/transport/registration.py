"""The socket for the registration of a kernel's ports, on loopback, open for one launch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import zmq

from kernelproto.exceptions import RemoteProtocolError
from kernelproto.transport.raw import Context
from kernelproto.transport.sockets import MessageSocket, open_socket, shared_context
from kernelproto.wire.message import Frame

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOPBACK = "127.0.0.1"

# A registration has some three hundred bytes. libzmq disconnects a sender of larger frames.
_LARGEST_FRAME_BYTES = 16_384
# The backlog for each sender; libzmq reads from all senders in turn.
_RECEIVE_BUFFER_MESSAGES = 100
# How long the acknowledgement, sent just before the end, may take to leave.
_LINGER_MS = 1000


class RegistrationSocket:
    """Listens for one kernel's registration; made by listen_for_registration().

    Attributes:
        port: the tcp port on 127.0.0.1.
    """

    def __init__(self, socket: MessageSocket) -> None:
        self._socket = socket
        endpoint = socket.raw.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self.port = int(endpoint.rstrip(b"\0").rpartition(b":")[2])

    async def answer_first(
        self, receive: Callable[[Sequence[Frame]], tuple[T, Sequence[Frame]]]
    ) -> T:
        """Wait for the first message that *receive* accepts, and answer this message.

        Args:
            receive: returns a result and an answer for the frames of a message, or raises
                RemoteProtocolError. A refused message is ignored, because any program of this
                machine can connect. The first refusal is logged.

        Returns:
            The result of *receive*.
        """
        refused = 0
        while True:
            for frames in await self._socket.receive():
                try:
                    result, answer = receive(frames)
                except RemoteProtocolError as error:
                    if not refused:
                        logger.warning(
                            "refused a message at the registration port %d; later refusals are not "
                            "logged: %s",
                            self.port,
                            error,
                        )
                    refused += 1
                else:
                    self._socket.try_send(answer)
                    return result


@contextmanager
def listen_for_registration() -> Generator[RegistrationSocket]:
    """Listen on a port of the loopback interface for the block.

    Raises:
        OSError: no port or descriptor is left.
    """
    with shared_context() as context:
        socket = _listen(context)
        try:
            yield RegistrationSocket(socket)
        finally:
            socket.close(_LINGER_MS)


def _listen(context: Context) -> MessageSocket:
    with ExitStack() as undo:
        try:
            socket = open_socket(context, zmq.ROUTER)
            undo.callback(socket.close, 0)
            socket.raw.set(zmq.MAXMSGSIZE, _LARGEST_FRAME_BYTES)
            socket.raw.set(zmq.RCVHWM, _RECEIVE_BUFFER_MESSAGES)
            socket.raw.bind(f"tcp://{LOOPBACK}:*")
        except zmq.ZMQError as error:  # not an OSError, although with an errno
            raise OSError(error.errno, error.strerror) from None
        undo.pop_all()
    return socket
