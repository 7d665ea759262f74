"""The application with fake kernels, and clients without a network."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette

from kernelproto import Backoff, KernelFinder, KernelPool, RestartPolicy, Timeouts
from kernelproto.interfaces import User, UserRequest
from kernelproto.server import Settings, create_app
from kernelproto.server.asgi_extension import EXTENSION, SEND_AT_ONCE, OnAcknowledged
from kernelproto.server.auth.authenticators import token_of
from kernelproto.testing import Exchange, FakeKernel, FakeProvider
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message, MessageFactory
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing

GUARD_SECONDS = 60
BASE = "http://server.test"
RESTART = RestartPolicy(
    limit=2, time_to_dead=None, stable_after=GUARD_SECONDS, backoff=Backoff(initial=0.001)
)


class ByName:
    """Takes a token for a user name: root is an admin, and ``stranger`` is refused."""

    async def authenticate(self, request: UserRequest) -> User | None:
        name = token_of(request)
        return User(name, admin=name == "root") if name and name != "stranger" else None


class Socket:
    """The client's end of a WebSocket to an ASGI application.

    Attributes:
        subprotocol: the subprotocol, after the handshake.
        refused: the HTTP status of a refused handshake; None if it was accepted.
        closed: the code and reason of the server's close frame.
        gone: set to let the network fail before the server notices.
    """

    def __init__(
        self, app: Starlette, scope: dict[str, Any], *, buffered: float, acknowledges: bool
    ) -> None:
        self.subprotocol: str | None = None
        self.refused: int | None = None
        self.refusal = b""
        self.closed: tuple[int, str] | None = None
        self.gone = False
        self._app = app
        self._scope = scope
        if acknowledges:
            scope["extensions"][EXTENSION] = {SEND_AT_ONCE: self._deliver_at_once}
        self._to_server, self._server_in = anyio.create_memory_object_stream[Any](100)
        self._server_out, self._from_server = anyio.create_memory_object_stream[Any](buffered)
        self._session = f"session-{id(self)}"
        count = itertools.count(1)
        self._factory = MessageFactory(
            session=self._session,
            username="browser",
            new_id=lambda: f"{self._session}-{next(count)}",
            now=lambda: "2026-01-01T00:00:00Z",
        )

    async def serve(self) -> None:
        with self._server_in, self._server_out:
            await self._app(self._scope, self._server_in.receive, self._deliver)

    async def _deliver(self, event: Any) -> None:
        if self.gone:
            raise OSError("the client has disconnected")  # as ASGI servers do
        await self._server_out.send(event)

    def _deliver_at_once(
        self, data: bytes | str, on_acknowledged: OnAcknowledged, is_followed: bool
    ) -> bool:
        """Send a message if the network has room; part of the extension (``SendAtOnce``)."""
        if self.gone:
            return False
        key = "text" if isinstance(data, str) else "bytes"
        event = {"type": "websocket.send", key: data, EXTENSION: on_acknowledged}
        try:
            self._server_out.send_nowait(event)
        except (anyio.WouldBlock, anyio.BrokenResourceError):
            return False
        return True

    async def _take(self) -> Any:
        event = await self._from_server.receive()
        confirm = event.get(EXTENSION)
        if confirm is not None:
            confirm()
        return event

    async def open(self) -> None:
        await self._to_server.send({"type": "websocket.connect"})
        event = await self._from_server.receive()
        if event["type"] == "websocket.accept":
            self.subprotocol = event.get("subprotocol")
        elif event["type"] == "websocket.close":
            self.refused = 403
        else:
            self.refused = event["status"]
            self.refusal = (await self._from_server.receive())["body"]

    async def leave(self) -> None:
        with anyio.CancelScope(shield=True):
            with suppress(anyio.BrokenResourceError):  # left before
                await self._to_server.send({"type": "websocket.disconnect", "code": 1001})
            async for _ in self._from_server:  # until the application is done
                pass
        for stream in (self._to_server, self._from_server):
            stream.close()

    async def send_raw(self, data: bytes | str) -> None:
        key = "text" if isinstance(data, str) else "bytes"
        await self._to_server.send({"type": "websocket.receive", key: data})

    async def send(
        self, msg_type: str, content: object, channel: ChannelName = "shell", **options: Any
    ) -> Message:
        message = self._factory.message(msg_type, content, **options)
        framing = client_framing(self.subprotocol)
        await self.send_raw(framing.encode(channel, message))
        return message

    async def execute(self, code: str, **options: Any) -> Message:
        return await self.send("execute_request", {"code": code, **options})

    async def receive(self) -> tuple[ChannelName, Message]:
        """Wait for a message; raise EndOfStream when the server closes the WebSocket."""
        event = await self._take()
        if event["type"] == "websocket.close":
            self.closed = event["code"], event["reason"]
            raise anyio.EndOfStream
        data = event.get("text")
        return client_framing(self.subprotocol).decode(event["bytes"] if data is None else data)

    async def receive_close(self) -> tuple[int, str]:
        """Receive until the server closes the WebSocket; return the code and the reason."""
        with suppress(anyio.EndOfStream):
            while True:
                await self.receive()
        assert self.closed is not None
        return self.closed

    async def receive_until(self, msg_type: str, parent: Message | None = None) -> list[Message]:
        """Wait for a message of a type; return all up to it."""
        messages: list[Message] = []
        while True:
            messages.append((await self.receive())[1])
            last = messages[-1]
            if last.msg_type == msg_type and (parent is None or is_answer(last, parent)):
                return messages

    async def finish(self, request: Message) -> list[Message]:
        """Wait for the reply to a request and for "idle"; return all messages of the request."""
        found: list[Message] = []
        ends = {"reply", "idle"}
        while ends:
            _, message = await self.receive()
            if is_answer(message, request):
                found.append(message)
                if message.msg_type.endswith("_reply"):
                    ends.discard("reply")
                elif message.msg_type == "status" and message.content.execution_state == "idle":
                    ends.discard("idle")
        return found


def is_answer(message: Message, request: Message) -> bool:
    parent = message.parent_header
    return parent is not None and parent.msg_id == request.msg_id


@dataclass
class Server:
    """The application, its pool and its kernels."""

    app: Starlette
    pool: KernelPool
    provider: FakeProvider

    def client(self, user: str | None = None, **headers: str) -> httpx.AsyncClient:
        if user is not None:
            headers["authorization"] = f"token {user}"
        transport = httpx.ASGITransport(app=self.app)
        return httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers)

    async def start(self, user: str) -> str:
        """Start a kernel over REST; return its id."""
        async with self.client(user) as client:
            response = await client.post("/api/kernels")
        assert response.status_code == 201, response.text
        return response.json()["id"]

    @asynccontextmanager
    async def connect(
        self,
        user: str,
        kernel_id: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (V1_SUBPROTOCOL,),
        buffered: float = 100_000,
        acknowledges: bool = False,
    ) -> AsyncGenerator[Socket]:
        """Open a WebSocket for the block.

        The network holds at most *buffered* unread messages. With *acknowledges* the client
        acknowledges each message that it reads; otherwise the server assumes so.
        """
        path = f"/api/kernels/{kernel_id}/channels"
        headers = {"host": "server.test", "authorization": f"token {user}", **(headers or {})}
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("server.test", 80),
            "subprotocols": list(subprotocols),
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }
        socket = Socket(self.app, scope, buffered=buffered, acknowledges=acknowledges)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.serve)
            await socket.open()
            try:
                yield socket
            finally:
                await socket.leave()


Opened = Callable[..., AbstractAsyncContextManager[Server]]


def prepare(fake: FakeKernel) -> None:
    fake.on_execute("6 * 7", result="42")
    fake.on_execute("work", work)
    fake.on_execute(lambda code: code.startswith("say "), say)
    fake.on_execute("ask", ask)


async def work(exchange: Exchange) -> None:
    await anyio.sleep_forever()


async def say(exchange: Exchange) -> None:
    exchange.stream(exchange.code.removeprefix("say "))


async def ask(exchange: Exchange) -> None:
    exchange.stream(f"hello {await exchange.input('who? ')}")


@pytest.fixture
def serving() -> Opened:
    """Return a function that serves fake kernels; it takes settings and options of the pool."""

    @asynccontextmanager
    async def serving(
        settings: Mapping[str, Any] | None = None,
        authenticator: object = None,
        prepare: Callable[[FakeKernel], None] = prepare,
        provider_type: type[FakeProvider] = FakeProvider,
        **options: Any,
    ) -> AsyncGenerator[Server]:
        defaults = {
            "kernel_type": "fake/kernel",
            "restart": RESTART,
            "timeouts": Timeouts(startup=60),
        }
        with anyio.fail_after(GUARD_SECONDS):
            async with provider_type(prepare) as provider:
                finder = KernelFinder([provider])
                async with KernelPool(finder=finder, **{**defaults, **options}) as pool:
                    app = create_app(
                        pool,
                        finder=finder,
                        authenticator=authenticator or ByName(),
                        settings=Settings(**{"kernel": "fake/kernel", **(settings or {})}),
                    )
                    yield Server(app, pool, provider)

    return serving
