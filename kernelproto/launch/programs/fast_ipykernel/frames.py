"""Send the frames of an output with one loop in C.

pyzmq's send_multipart combines two flags of an enumeration for each frame, which takes longer than
all sends of a message. Outputs with frames that pyzmq does not copy are sent by ipykernel's code.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

from .hook import IOPUB_THREAD, Hook, Need, find

# The options with which jupyter_client sends small messages.
COPIED = {"copy": True}

# The types of frames that can be sent in C.
SENT_IN_C = frozenset({bytes})


@cache
def pyzmq() -> Any:
    """Return the module zmq, once the kernel uses it."""
    return find("zmq")


@cache
def send_in_c() -> Callable[[Any, bytes, int], object] | None:
    """Return the function in C that sends a frame on a socket; None if this pyzmq has none."""
    return getattr(getattr(getattr(pyzmq(), "backend", None), "Socket", None), "send", None)


@lru_cache(maxsize=16)
def flags_of(number: int) -> tuple[int, ...]:
    """Return the flags with which the frames of a message are sent.

    Args:
        number: the number of frames.
    """
    return (int(pyzmq().SNDMORE),) * (number - 1) + (0,)


class SendFrames:
    """The part of an IOPubThread that sends a message; called in that thread."""

    def _really_send(self: Any, msg: Any, *args: Any, **kwargs: Any) -> None:
        stock: Any = super()
        zmq, socket, send = pyzmq(), self.socket, send_in_c()
        if (
            send is None
            or args
            or kwargs != COPIED
            or type(socket) is not zmq.Socket
            or os.getpid() != self._master_pid
            # Checked before the first frame is sent: an error would leave half a message behind.
            or not SENT_IN_C.issuperset(map(type, msg))
        ):
            stock._really_send(msg, *args, **kwargs)
            return
        try:
            deque(map(partial(send, socket), msg, flags_of(len(msg))), maxlen=0)
        except zmq.ZMQError as error:
            if error.errno != errno.ENOTSOCK:
                raise
            stock._really_send(msg, *args, **kwargs)  # the kernel ends, and has closed the socket


HOOK = Hook(
    name="frames",
    needs=[
        Need(f"{IOPUB_THREAD}._really_send", "self, msg, *args, **kwargs", "socket send_multipart"),
        Need(f"{IOPUB_THREAD}._is_master_process", "self", "_master_pid"),
        Need("zmq:Socket.send_multipart", None, "SNDMORE send"),
        Need("zmq:Socket.send", None, "routing_id group send"),
    ],
    mixins={IOPUB_THREAD: SendFrames},
)
