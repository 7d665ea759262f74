"""Thousands of hostile requests, to a server and its neighbours, who notice nothing of them.

The number is small here. All of them, and others than usual:

    KERNELPROTO_HOSTILE=10000 KERNELPROTO_SEED=7 pytest -s -k hostile
"""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.abc import SocketStream
from anyio.lowlevel import checkpoint
from websockets.asyncio.client import ClientConnection, connect

from kernelproto.fanout.replay_log import Cursor
from kernelproto.launch.process.forkserver import ForkServer
from kernelproto.server import Settings, hash_token
from kernelproto.server.program.serve import serve
from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing
from tests.integration.attacks import Attack, Target
from tests.integration.oracle import StallOracle, assert_no_pause
from tests.integration.websocket_attacks import ATTACK_SESSION, CLOSE, SWITCHED, attacks, frame

COUNT = int(os.environ.get("KERNELPROTO_HOSTILE", "750"))
SEED = int(os.environ.get("KERNELPROTO_SEED", "1"))

GUARD_SECONDS = 60
ANSWER_SECONDS = 10
ATTACKERS = 10
BODY_LIMIT = 200_000
MESSAGE_LIMIT = 300_000

# Whose objects come and go with requests and WebSockets.
WORKERS = (
    "kernelproto.server.",
    "kernelproto.pool.",
    "starlette.",
    "uvicorn.",
    "h11.",
    "websockets.",
)

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


class Server:
    """A server in this process, so that what it leaves behind can be counted."""

    def __init__(self, port: int) -> None:
        self.port = port

    def client(self, user: str) -> httpx.AsyncClient:
        headers = {"authorization": f"token {user}-token"}
        url = f"http://127.0.0.1:{self.port}"
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=GUARD_SECONDS)


@asynccontextmanager
async def serving(folder: Path, capsys: pytest.CaptureFixture[str]) -> AsyncGenerator[Server]:
    users = folder / "users.toml"
    users.write_text(
        "".join(f"[{u}]\ntoken='{hash_token(f'{u}-token')}'\n" for u in ("ada", "eve"))
    )
    settings = Settings(
        port=0,
        authentication="file",
        token_file=str(users),
        failed_logins_per_minute=0,  # each wrong token has its own answer
        kernel="fork/kernel",
        root_dir=str(folder),
        max_per_user=2,
        max_body_bytes=BODY_LIMIT,
        max_message_bytes=MESSAGE_LIMIT,
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, settings)
            said = ""
            while (found := re.search(r"http://\S+:(\d+)/", said)) is None:
                await checkpoint()
                said += capsys.readouterr().err
            try:
                yield Server(int(found[1]))
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        ForkServer.close_all()


async def attempt(server: Server, attack: Attack) -> tuple[int, int | None, bytes]:
    """Attack; return the status and all that was answered, and of a WebSocket the closing code."""
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        try:
            await stream.send(attack.request)
            if attack.hangs_up and not attack.frames:
                return 0, None, b""
            head = await read_head(stream)
            if not head.startswith(b"HTTP/1.1 101 "):
                return (int(head.split()[1]) if head else 0), None, head
            await stream.send(attack.frames)
            if attack.hangs_up:
                return SWITCHED, None, head
            if 1000 in attack.codes:
                await stream.send(frame(CLOSE, (1000).to_bytes(2, "big")))
            return SWITCHED, await closing_code(stream, head.partition(b"\r\n\r\n")[2]), head
        except anyio.BrokenResourceError:  # it has hung up before it had heard everything
            return 0, None, b""


async def read_head(stream: SocketStream) -> bytes:
    """Read an answer up to its body at least; nothing when there is none."""
    head = b""
    while b"\r\n\r\n" not in head:
        try:
            head += await stream.receive()
        except anyio.EndOfStream:
            break
    return head


async def closing_code(stream: SocketStream, data: bytes) -> int | None:
    """Read frames until one of them closes the WebSocket, and return its code."""
    while True:
        while len(data) < 2 or len(data) < end_of_frame(data):
            try:
                data += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return None
        end = end_of_frame(data)
        if data[0] & 0xF == CLOSE:
            return int.from_bytes(data[2:4], "big")
        data = data[end:]


def end_of_frame(data: bytes) -> int:
    size, start = data[1] & 0x7F, 2
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(data[2:start], "big")
    return start + size


class Witness:
    """A well-behaved user with a WebSocket, who sees everything that gets to it.

    Args:
        socket: the WebSocket.
        session: the session of all requests of this user.
        ignored_session: a session whose messages may arrive here too.
    """

    def __init__(
        self, socket: ClientConnection, session: str, ignored_session: str | None = None
    ) -> None:
        self._socket = socket
        self._session = session
        self._ignored_session = ignored_session
        self._framing = client_framing(V1_SUBPROTOCOL)
        self._count = 0

    async def execute(self, code: str) -> str:
        """Run code; return its value, or the reply if there is none.

        No message of other requests may arrive, except those of the ignored session.
        """
        self._count += 1
        msg_id = f"{self._session}-{self._count}"
        header = Header(
            msg_id=msg_id, msg_type="execute_request", session=self._session, version="5.4"
        )
        request = Message.build(header, {"code": code})
        await self._socket.send(self._framing.encode("shell", request))
        value, reply, ends = None, None, {"reply", "idle"}
        while ends:
            _, message = self._framing.decode(await self._socket.recv())
            parent = message.parent_header
            assert parent is not None
            if parent.session == self._ignored_session:
                continue
            assert parent.msg_id == msg_id
            if message.msg_type == "execute_result":
                value = message.content.data["text/plain"]
            elif message.msg_type == "execute_reply":
                reply = message.content
                ends.discard("reply")
            elif message.msg_type == "status" and message.content.execution_state == "idle":
                ends.discard("idle")
        return str(reply) if value is None else value


@asynccontextmanager
async def watching(
    server: Server, user: str, kernel_id: str, ignored_session: str | None = None
) -> AsyncGenerator[Witness]:
    async with connect(
        f"ws://127.0.0.1:{server.port}/api/kernels/{kernel_id}/channels",
        additional_headers={"authorization": f"token {user}-token"},
        subprotocols=[V1_SUBPROTOCOL],
        proxy=None,
    ) as socket:
        yield Witness(socket, user, ignored_session)


async def attack(server: Server, seed: int, target: Target, count: int) -> Counter[str]:
    """Attack from all sides; return how often the server did what, and assert that it was right."""
    done: Counter[str] = Counter()
    wrong: list[str] = []

    async def one_by_one(todo: Iterator[tuple[str, Attack]]) -> None:
        for kind, attack in todo:
            status, code, head = -1, None, b"silence"
            with anyio.move_on_after(ANSWER_SECONDS):
                status, code, head = await attempt(server, attack)
            done[f"{kind}: {status} {code or ''}"] += 1
            if status in (0, SWITCHED) and attack.hangs_up:
                continue
            right = status in attack.statuses and (code is None or code in attack.codes)
            if not right or re.search(rb"(?im)^x-injected|^set-cookie", head):
                sent = attack.request[:300] + attack.frames[:100]
                wrong.append(f"{kind}: {status} {code} {head!r} is the answer to {sent!r}")

    todo = attacks(seed, target, count)
    async with anyio.create_task_group() as tasks:
        for _ in range(ATTACKERS):
            tasks.start_soon(one_by_one, todo)
    assert not wrong, f"{len(wrong)} with KERNELPROTO_SEED={SEED}:\n" + "\n".join(wrong[:20])
    return done


def inventory() -> Counter[str]:
    """Count what a request might leave behind, save what is kept for clients that come back."""
    gc.collect()
    counts = Counter(
        type(thing).__name__
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith(WORKERS) and type(thing) is not Cursor
    )
    counts["descriptors"] = len(os.listdir("/proc/self/fd"))
    counts["tasks"] = len(anyio.get_running_tasks())
    return counts


async def growth_since(before: Counter[str]) -> Counter[str]:
    """Return what there is too much of, once the last connections have ended."""
    with anyio.move_on_after(GUARD_SECONDS):
        while inventory() - before:
            for _ in range(100):  # counting takes much longer than a turn of the event loop
                await checkpoint()
    return inventory() - before


def resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


class Failures(logging.Handler):
    """Keeps the log messages that have a traceback, as text, so that no object is kept alive."""

    def __init__(self) -> None:
        super().__init__()
        self.tracebacks: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.tracebacks[record.getMessage()] = self.format(record)


async def test_hostile_requests_do_no_harm(
    no_leaks: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = Failures()
    monkeypatch.setattr(logging.getLogger(), "handlers", [failures])  # those of pytest keep records
    with anyio.fail_after(GUARD_SECONDS + COUNT / 10):
        async with (
            serving(tmp_path, capsys) as server,
            server.client("ada") as ada,
            server.client("eve") as eve,
        ):
            victim = (await ada.post("/api/kernels")).json()["id"]
            own = (await eve.post("/api/contexts")).json()["id"]
            target = Target("eve-token", own, victim, BODY_LIMIT, MESSAGE_LIMIT)
            async with watching(server, "ada", victim) as witness:
                await witness.execute("x = 42")
                await attack(server, SEED + 1, target, 300)  # what is made once and kept
                before, objects, kib = inventory(), len(gc.get_objects()), resident_kib()
                oracle = StallOracle(server.port, os.getpid())
                try:
                    done = await attack(server, SEED, target, COUNT)
                finally:
                    seen = await anyio.to_thread.run_sync(oracle.stop)
                assert_no_pause(seen)
                growth = await growth_since(before)
                objects, kib = len(gc.get_objects()) - objects, resident_kib() - kib

                report = f"{dict(done)}\n{COUNT} requests: {objects} objects, {kib} KiB\n"
                assert await witness.execute("x") == "42"
                assert not growth
                assert objects < COUNT
            for client, kernel_id in ((ada, victim), (eve, own)):
                (kernel,) = (await client.get("/api/kernels")).json()
                assert kernel["id"] == kernel_id
            # The kernel may still answer requests of the attacks.
            async with watching(server, "eve", own, ATTACK_SESSION) as attacker:
                assert await attacker.execute("6 * 7") == "42"
    sys.stdout.write(report)
    failures.tracebacks.pop("Invalid UTF-8 sequence received from client.", None)  # says uvicorn
    assert not failures.tracebacks, "\n".join(failures.tracebacks.values())
