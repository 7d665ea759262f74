"""Receiving and sending on a raw zmq socket without waiting: what both kinds of sockets share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import zmq

from kernelproto.wire.message import Frame

RawSocket: TypeAlias = zmq.Socket[bytes]
Context: TypeAlias = zmq.Context[RawSocket]

# Draining in one go is what makes receiving fast; stopping now and then lets other tasks run.
MOST_AT_ONCE = 256


def drain(raw: RawSocket, batch: list[list[bytes]]) -> list[list[bytes]]:
    """Append to *batch* the messages that are there, until it holds MOST_AT_ONCE; return it."""
    receive = raw.recv_multipart
    try:
        while len(batch) < MOST_AT_ONCE:
            batch.append(receive(zmq.NOBLOCK))
    except zmq.Again:
        pass
    return batch


def try_send(raw: RawSocket, frames: Sequence[Frame]) -> bool:
    """Send a message at once; return False, and send nothing, when the buffer is full."""
    try:
        raw.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
