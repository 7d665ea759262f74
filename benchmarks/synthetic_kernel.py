"""Many kernels in one process, in plain pyzmq, which only send outputs.

    python -m benchmarks.synthetic_kernel FOLDER COUNT

writes COUNT connection files into FOLDER, prints "ready", and serves until standard input ends.

    python -m benchmarks.synthetic_kernel FILE

serves one kernel with an existing connection file until it is shut down, as kernel servers need it.
The code is a word and a number:

    pass            nothing
    result          one execute_result
    outputs N       N pieces of text on stdout
    display BYTES   one output, then a display of one long text
    buffer BYTES    one output, then a display with one binary buffer

The last three sign all messages before they send the first. The first output is the time at which
sending began, by the monotonic clock that all processes share.

The reply contains ``sent_per_second``. All kernels have the same key, and share the control, stdin
and heartbeat channels.
"""

from __future__ import annotations

import hmac
import itertools
import json
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import zmq

DELIMITER = b"<IDS|MSG>"
TEXT = "A line of text, as programs print it while they work: step 12345, loss 0.6789\\n"

_HEADER = (
    b'{"msg_id":"%s_%d","msg_type":"%s","session":"%s","username":"kernel",'
    b'"date":"2026-11-20T12:00:00.123456Z","version":"5.3"}'
)
_KERNEL_INFO = json.dumps(
    {
        "status": "ok",
        "protocol_version": "5.3",
        "implementation": "synthetic",
        "implementation_version": "1",
        "language_info": {"name": "none", "version": "1", "mimetype": "", "file_extension": ""},
        "banner": "",
    }
).encode()

Socket = zmq.Socket[bytes]


class Voice:
    """Writes signed messages."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._session = secrets.token_hex(8).encode()
        self._count = itertools.count()

    def message(
        self, msg_type: bytes, content: bytes, parent: bytes, *buffers: bytes
    ) -> list[bytes]:
        """Return a signed message with a unique id."""
        header = _HEADER % (self._session, next(self._count), msg_type, self._session)
        parts = (header, parent, b"{}", content)
        signature = hmac.digest(self._key, b"".join(parts), "sha256").hex().encode()
        return [DELIMITER, signature, *parts, *buffers]


class SyntheticKernel:
    """A kernel: its shell and iopub sockets."""

    def __init__(self, voice: Voice, shell: Socket, iopub: Socket) -> None:
        self._voice = voice
        self.shell = shell
        self._iopub = iopub

    def answer(self, request: Sequence[bytes], socket: Socket) -> bytes:
        """Perform a request and reply on the socket that it came from; return its type."""
        start = request.index(DELIMITER)
        client, parent, content = request[:start], request[start + 2], request[start + 5]
        msg_type = json.loads(parent)["msg_type"].encode()
        self._publish(b"status", b'{"execution_state":"busy"}', parent)
        answer = _KERNEL_INFO if msg_type == b"kernel_info_request" else b'{"status":"ok"}'
        if msg_type == b"execute_request":
            self._publish(b"execute_input", content, parent)
            rate = self._execute(json.loads(content)["code"], parent)
            answer = b'{"status":"ok","execution_count":1,"sent_per_second":%d}' % rate
        reply = self._voice.message(msg_type.replace(b"_request", b"_reply"), answer, parent)
        socket.send_multipart([*client, *reply])
        self._publish(b"status", b'{"execution_state":"idle"}', parent)
        return msg_type

    def _execute(self, code: str, parent: bytes) -> float:
        word, _, number = code.partition(" ")
        if word == "result":
            content = b'{"data":{"text/plain":"42"},"metadata":{},"execution_count":1}'
            return self._send([self._voice.message(b"execute_result", content, parent)])
        if word == "outputs":
            rest = range(1, int(number))
            return self._send_timed([self._text(TEXT, parent) for _ in rest], parent)
        if word in ("display", "buffer"):
            text, buffers = "A" * int(number), []
            if word == "buffer":
                text, buffers = "a buffer", [bytes(int(number))]
            data = b'{"data":{"text/plain":"%s"},"metadata":{},"transient":{}}' % text.encode()
            large = self._voice.message(b"display_data", data, parent, *buffers)
            return self._send_timed([large], parent)
        return 0.0

    def _send_timed(self, messages: Sequence[list[bytes]], parent: bytes) -> float:
        self._iopub.send_multipart(self._text(str(time.monotonic()), parent))
        return self._send(messages)

    def _text(self, text: str, parent: bytes) -> list[bytes]:
        return self._voice.message(
            b"stream", b'{"name":"stdout","text":"%s"}' % text.encode(), parent
        )

    def _send(self, messages: Sequence[list[bytes]]) -> float:
        # Not send_multipart: it takes three times as long, because it checks each frame.
        send = self._iopub.send
        began = time.perf_counter()
        for message in messages:
            for frame in message[:-1]:
                send(frame, zmq.SNDMORE)
            send(message[-1])
        return len(messages) / (time.perf_counter() - began)

    def _publish(self, msg_type: bytes, content: bytes, parent: bytes) -> None:
        self._iopub.send_multipart(self._voice.message(msg_type, content, parent))


def serve(folder: Path, count: int) -> None:
    """Serve *count* kernels until standard input ends."""
    context: zmq.Context[Socket] = zmq.Context()
    key = secrets.token_hex(16)
    voice = Voice(key.encode())
    shared = {name: _bound(context, zmq.ROUTER) for name in ("control", "stdin", "hb")}
    kernels: dict[Any, SyntheticKernel] = {}
    for number in range(count):
        shell, iopub = _bound(context, zmq.ROUTER), _bound(context, zmq.PUB)
        kernels[shell] = SyntheticKernel(voice, shell, iopub)
        sockets = {**shared, "shell": shell, "iopub": iopub}
        info = {"transport": "tcp", "ip": "127.0.0.1", "key": key, "kernel_name": "synthetic"}
        info["signature_scheme"] = "hmac-sha256"
        ports = {f"{name}_port": _port(socket) for name, socket in sockets.items()}
        (folder / f"kernel-{number:02}.json").write_text(json.dumps(info | ports))
    kernels[shared["control"]] = next(iter(kernels.values()))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _answer(kernels, shared["hb"], sys.stdin)
    context.destroy(linger=0)


def serve_launched(file: Path) -> None:
    """Serve the kernel of a connection file until it is shut down."""
    context: zmq.Context[Socket] = zmq.Context()
    info = json.loads(file.read_text())
    separator = "-" if info["transport"] == "ipc" else ":"
    kinds = {"shell": zmq.ROUTER, "control": zmq.ROUTER, "stdin": zmq.ROUTER, "hb": zmq.ROUTER}
    sockets = {
        name: _bound(
            context, kind, f"{info['transport']}://{info['ip']}{separator}{info[f'{name}_port']}"
        )
        for name, kind in {**kinds, "iopub": zmq.PUB}.items()
    }
    kernel = SyntheticKernel(Voice(info["key"].encode()), sockets["shell"], sockets["iopub"])
    _answer({sockets["shell"]: kernel, sockets["control"]: kernel}, sockets["hb"])
    context.destroy(linger=1000)


def _answer(kernels: Mapping[Any, SyntheticKernel], heartbeat: Socket, *ends: Any) -> None:
    """Answer requests until a shutdown_request, or until one of *ends* is readable."""
    poller = zmq.Poller()
    for socket in (*kernels, heartbeat, *ends):
        poller.register(socket, zmq.POLLIN)
    msg_type = b""
    while msg_type != b"shutdown_request":
        for socket, _ in poller.poll():
            if socket in ends:
                return
            if socket is heartbeat:
                socket.send_multipart(socket.recv_multipart())
            else:
                msg_type = kernels[socket].answer(socket.recv_multipart(), socket)


def _bound(context: zmq.Context[Socket], kind: int, endpoint: str = "tcp://127.0.0.1:*") -> Socket:
    socket = context.socket(kind)
    # No high-water mark: the kernel itself loses nothing, however slow a client is.
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.bind(endpoint)
    return socket


def _port(socket: Socket) -> int:
    endpoint = cast("bytes", socket.get(zmq.LAST_ENDPOINT))
    return int(endpoint.rpartition(b":")[2].rstrip(b"\0"))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve_launched(Path(sys.argv[1]))
    else:
        serve(Path(sys.argv[1]), int(sys.argv[2]))
