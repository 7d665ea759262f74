"""The users of ``gateway_kills``: each works through any of several servers that share a registry.

A user takes turns with the others. In a turn a user opens a session, executes a few cells that
print numbered lines, each through a WebSocket to a server chosen at random, and connects through
another when the WebSocket is closed. Then the user ends the kernel, or leaves the kernel idle, with
or without a WebSocket. Now and then a user wants more kernels than allowed, from all servers at the
same moment.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing
from tests.integration.server_kills import Faults

GUARD_SECONDS = 300.0
MAX_PER_USER = 2

_UNREAD_SECONDS = 15.0
_LONGEST_REFUSAL_SECONDS = 20.0
_LINES = 2000
_FLOOD = (
    f"import time\nfor n in range({_LINES}):\n    print(n)\n    if n % 200 == 0: time.sleep(0.1)\n"
)
_GONE = (OSError, httpx.TransportError, WebSocketException, TimeoutError)
# A server that ends without waiting for its requests answers 500.
_AGAIN = (409, 429, 500, 502, 503)


class Work:
    """The servers, and the common state of all users.

    Args:
        urls: the servers.
        seed: the seed of all choices.
        turns: the number of users that work at the same time.

    Attributes:
        faults: everything that was wrong.
        counts: the responses, WebSockets, cells and lines.
        through: the WebSockets of each server.
        is_over: whether users begin no more turns.
    """

    def __init__(self, urls: list[str], seed: str, turns: int) -> None:
        self.faults = Faults()
        self.counts = Counter[str]()
        self.through = Counter[str]()
        self.is_over = False
        self.dice = random.Random(seed)
        self.turns = asyncio.Semaphore(turns)
        self.urls = urls
        self.http = httpx.AsyncClient(
            timeout=30, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def any_url(self) -> str:
        return self.dice.choice(self.urls)


class Client:
    """A user, who works through any server."""

    def __init__(self, name: str, work: Work) -> None:
        self.name = name
        self._work = work
        self._session = uuid.uuid4().hex
        self._framing = client_framing(V1_SUBPROTOCOL)
        self._socket: ClientConnection | None = None
        self._last: str | None = None
        self._kernel_id = ""
        self._headers = {"authorization": f"token {name}"}

    async def work(self) -> None:
        """Take turns until the work is over; then end all kernels."""
        while not self._work.is_over:
            async with self._work.turns:
                if not self._work.is_over:
                    await self._take_turn()
            await asyncio.sleep(self._work.dice.uniform(0, 1))
        async with self._work.turns:
            await self._end_all()

    async def _take_turn(self) -> None:
        dice = self._work.dice
        if dice.random() < 0.05:
            await self._want_too_many()
        if await self._open_session():
            for _ in range(dice.choice((1, 1, 2))):
                if not await self._execute():
                    break
        left = dice.random()  # others may need its kernel
        if left < 0.3:
            await self._end_all()
        elif left < 0.5:
            await self._disconnect()

    async def _want_too_many(self) -> None:
        """Ask all servers for kernels at the same moment, and end all kernels."""

        async def ask(url: str) -> None:
            with suppress(httpx.TransportError):
                response = await self._work.http.post(f"{url}/api/kernels", headers=self._headers)
                self._work.counts[f"POST at once {response.status_code}"] += 1

        async with asyncio.TaskGroup() as tasks:
            for url in self._work.urls:
                tasks.create_task(ask(url))
        await self._end_all()

    async def _request(
        self, method: str, path: str, *, seconds: float = GUARD_SECONDS, **options: Any
    ) -> httpx.Response:
        """Send a request to any server, again while it says so."""
        deadline = time.monotonic() + seconds
        pause = 0.1
        while time.monotonic() < deadline:
            url = f"{self._work.any_url()}{path}"
            with suppress(httpx.TransportError):
                response = await self._work.http.request(
                    method, url, headers=self._headers, **options
                )
                self._work.counts[f"{method} {response.status_code}"] += 1
                if response.status_code not in _AGAIN:
                    return response
            await asyncio.sleep(self._work.dice.uniform(pause, 2 * pause))
            pause = min(1.0, 2 * pause)
        raise TimeoutError(f"{self.name}: {method} {path} is refused for {seconds:g} s")

    async def _open_session(self) -> bool:
        body = {"path": f"{self.name}.ipynb", "type": "notebook"}
        try:
            response = await self._request(
                "POST", "/api/sessions", seconds=_LONGEST_REFUSAL_SECONDS, json=body
            )
        except TimeoutError:
            self._work.counts["turns without a kernel"] += 1
            return False
        assert response.status_code == 201, f"session: {response.text}"
        kernel_id = response.json()["kernel"]["id"]
        if kernel_id != self._kernel_id:
            await self._disconnect()
            self._kernel_id, self._last = kernel_id, None
        return True

    async def _end_all(self) -> None:
        await self._disconnect()
        for session in (await self._request("GET", "/api/sessions")).json():
            await self._request("DELETE", f"/api/sessions/{session['id']}")
        for kernel in (await self._request("GET", "/api/kernels")).json():
            await self._request("DELETE", f"/api/kernels/{kernel['id']}")
        self._kernel_id = ""

    async def _disconnect(self) -> None:
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    async def _connect(self) -> bool:
        """Connect through any server; return whether the kernel still exists."""
        await self._disconnect()
        last = f"&last_msg_id={self._last}" if self._last else ""
        async with asyncio.timeout(GUARD_SECONDS):
            while True:
                url = self._work.any_url()
                address = f"{url.replace('http', 'ws', 1)}/api/kernels/{self._kernel_id}"
                try:
                    self._socket = await connect(
                        f"{address}/channels?session_id={self._session}{last}",
                        additional_headers=self._headers,
                        subprotocols=[V1_SUBPROTOCOL],
                        compression=None,
                        max_size=None,
                        proxy=None,
                    )
                except InvalidStatus as error:
                    status = error.response.status_code
                    self._work.faults.check(status in (404, *_AGAIN), f"WebSocket: {status}")
                    if error.response.status_code == 404:
                        return False
                except _GONE:
                    pass
                else:
                    self._work.counts["WebSockets"] += 1
                    self._work.through[url] += 1
                    return True
                await asyncio.sleep(self._work.dice.uniform(0.1, 0.5))

    async def _execute(self) -> bool:
        """Execute a cell and check its lines; return whether the kernel still exists."""
        if not await self._connect():
            self._work.counts["kernels that ended"] += 1
            return False
        assert self._socket is not None
        msg_id = uuid.uuid4().hex
        header = Header(
            msg_id=msg_id, msg_type="execute_request", session=self._session, version="5.4"
        )
        message = Message.build(header, {"code": _FLOOD, "allow_stdin": False})
        try:
            await self._socket.send(self._framing.encode("shell", message))
        except _GONE:
            self._work.counts["cells unread"] += 1
            return True
        text, status, ends, answered = "", None, {"reply", "idle"}, False
        deadline = time.monotonic() + GUARD_SECONDS
        while ends:
            wait = _UNREAD_SECONDS if not answered else deadline - time.monotonic()
            try:
                async with asyncio.timeout(max(0.1, wait)):
                    _, message = self._framing.decode(await self._socket.recv())
            except _GONE as error:
                if isinstance(error, TimeoutError) and not answered:
                    self._work.counts["cells unread"] += 1
                    return True  # it was sent to a server that was killed before it read it
                if time.monotonic() > deadline:
                    await self._note_endless(msg_id, text, ends)
                    return False
                self._work.counts["cells interrupted"] += 1
                if not await self._connect():
                    self._work.counts["cells of kernels that ended"] += 1
                    return False
                continue
            self._last = message.msg_id
            parent = message.parent_header
            if parent is None or parent.msg_id != msg_id:
                continue
            answered = True
            if message.msg_type == "stream":
                text += message.content.text
            elif message.msg_type == "execute_reply":
                status = message.content.status
                ends.discard("reply")
            elif message.msg_type == "status" and message.content.execution_state == "idle":
                ends.discard("idle")
        self._work.counts[f"cells {status}"] += 1
        if status == "ok":
            lines = text.split()
            wrong = lines != [str(n) for n in range(_LINES)]
            words = f"{len(lines)} lines, of which {len(set(lines))} differ: {text[:200]!r}"
            self._work.faults.check(not wrong, f"{self.name}: cell {msg_id} has {words}")
            self._work.counts["lines"] += len(lines)
        return True

    async def _note_endless(self, msg_id: str, text: str, ends: set[str]) -> None:
        response = await self._request("GET", f"/api/kernels/{self._kernel_id}")
        words = f"cell {msg_id} does not end: {len(text.split())} lines, lacks {ends}"
        self._work.faults.check(False, f"{self.name}: {words}; {response.text}")
