"""Plain pyzmq in a blocking loop: the lower bound."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import zmq

from benchmarks.peers.frames import DELIMITER, Frames, Wire, is_idle, is_output, read_info, text_of
from benchmarks.peers.peer import LONGEST_SECONDS, Peer, Program, Streamed, T, run_by_hand, since


class PlainClient:
    """A client without an event loop, with one method per part of its work.

    Attributes:
        outputs: number of outputs of the last request.
        reply: the content of its reply.
    """

    def __init__(self, info: dict[str, Any], *, decoding: bool) -> None:
        self.wire = Wire(info)
        self.outputs = 0
        self.reply: dict[str, Any] = {}
        self._decoding = decoding
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._shell = self._connected(zmq.DEALER, info, "shell")
        self._iopub = self._connected(zmq.SUB, info, "iopub")

    def wait_for_ready(self) -> None:
        while True:
            self._shell.send_multipart(self.wire.request("kernel_info_request", {}))
            self._shell.recv_multipart()
            if self._iopub.poll(200):
                break
        while self._iopub.poll(100):
            self._iopub.recv_multipart()

    def begin(self, code: str) -> None:
        self._shell.send_multipart(self.wire.execute_request(code))

    def finish(self) -> Frames:
        """Receive all messages of a request and count the outputs; return the first output."""
        receive, decode, decoding = self._iopub.recv_multipart, self.wire.decode, self._decoding
        first: Frames = ()
        count = 0
        while True:
            frames = receive()
            if decoding:
                decode(frames)
            if is_output(frames):
                count += 1
                first = first or frames
            elif is_idle(frames):
                break
        self.outputs = count
        _, _, self.reply = self.wire.decode(self._shell.recv_multipart())
        return first

    async def execute(self, code: str) -> int:
        self.begin(code)
        self.finish()
        return self.outputs

    async def stream(self, code: str) -> Streamed:
        self.begin(code)
        _, _, content = self.wire.decode(self.finish())
        return Streamed(self.outputs, since(text_of(content)))

    async def buffers(self, code: str) -> Streamed:
        self.begin(code)
        began, size = None, 0
        while not is_idle(frames := self._iopub.recv_multipart()):
            _, _, content = self.wire.decode(frames)
            if is_output(frames):
                began = began or text_of(content)
                size += sum(map(len, frames[frames.index(DELIMITER) + 6 :]))
        self._shell.recv_multipart()
        return Streamed(size, since(began))

    async def pipeline(self, code: str, count: int) -> None:
        for _ in range(count):
            self.begin(code)
        for _ in range(count):
            self.finish()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _connected(self, kind: int, info: dict[str, Any], channel: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set(zmq.RCVHWM, 0)
        socket.set(zmq.RCVTIMEO, round(LONGEST_SECONDS * 1000))
        if kind == zmq.SUB:
            socket.set(zmq.SUBSCRIBE, b"")
        socket.connect(f"tcp://{info['ip']}:{info[channel + '_port']}")
        return socket


class Plain(Peer):
    """A loop around recv_multipart.

    Args:
        decoding: whether to verify and decode outputs; the lower bound does not.
    """

    def __init__(self, *, decoding: bool = False) -> None:
        self.name = "pyzmq loop, verified" if decoding else "pyzmq loop"
        self._decoding = decoding

    def run(self, program: Program[T]) -> T:
        return run_by_hand(program)

    @asynccontextmanager
    async def connect(self, file: Path) -> AsyncGenerator[PlainClient]:
        client = PlainClient(read_info(file), decoding=self._decoding)
        try:
            client.wait_for_ready()
            yield client
        finally:
            client.close()

    async def each(self, clients: Sequence[PlainClient], code: str, count: int) -> None:
        for _ in range(count):
            for client in clients:
                client.begin(code)
            for client in clients:
                client.finish()
