"""CancellableSends: make sends on a WebSocket cancellable on every ASGI server."""

from __future__ import annotations

from typing import NamedTuple, Self

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.concurrency.waiter import Waiter
from kernelproto.server.asgi_extension import EXTENSION

# The time in which a client can read the last events.
_LAST_EVENTS_SECONDS = 60


class CancellableSends:
    """ASGI middleware: send the events of each WebSocket in a task of its own.

    Some ASGI servers, such as hypercorn on Trio, shield their sends from cancellation. If a client
    does not read, its task could not end, and its kernel would count as connected indefinitely.
    With this middleware only the sending task waits for the server. If the application is cancelled
    during a send, that event is still sent. One more event can follow, such as a close event with
    the reason; after _LAST_EVENTS_SECONDS both are dropped.

    A server with acknowledgements has cancellable sends, so the WebSockets need no further task.

    Args:
        app: the application that sends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket, a request or the lifespan."""
        if scope["type"] != "websocket" or EXTENSION in scope.get("extensions", {}):
            await self._app(scope, receive, send)
            return
        with _Outbox(send) as outbox:
            async with background_tasks() as tasks:
                tasks.start_soon(outbox.serve)
                await self._app(scope, receive, outbox.send)
                with anyio.move_on_after(_LAST_EVENTS_SECONDS):
                    await outbox.empty()


class _Outgoing(NamedTuple):
    event: Message
    done: Waiter[bool]


class _Outbox:
    """The event that is being sent, and the next one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._drained = anyio.Event()
        self._outgoing_in, self._outgoing = anyio.create_memory_object_stream[_Outgoing](1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._outgoing_in.close()
        self._outgoing.close()

    async def send(self, event: Message) -> None:
        """Send an event; return when the server has sent the event, or raise the server's error."""
        item = _Outgoing(event, Waiter[bool]())
        await self._outgoing_in.send(item)
        await item.done.wait()

    async def empty(self) -> None:
        """Accept no more events, and wait until all are sent."""
        self._outgoing_in.close()
        await self._drained.wait()

    async def serve(self) -> None:
        async for item in self._outgoing:
            try:
                await self._send(item.event)
            except Exception as error:  # raised in the task that sends the event
                item.done.fail(error)
            else:
                item.done.set(True)
        self._drained.set()
