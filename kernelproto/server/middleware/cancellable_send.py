"""Sends: whoever sends on a WebSocket can be cancelled, whatever the ASGI server does meanwhile."""

from __future__ import annotations

from typing import NamedTuple, Self

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.concurrency.waiter import Waiter
from kernelproto.server.asgi_extension import EXTENSION

# How long a client may take to read what it was told last.
_LAST_WORDS_SECONDS = 60


class CancellableSends:
    """ASGI middleware: a WebSocket's client that does not read holds up one task, and no more.

    Some servers, hypercorn on Trio among them, shield what they send from cancellation. So what
    serves such a client could not end, and neither would what it holds: its kernel would count as
    connected for ever. Here the events of each WebSocket are sent by a task of its own, which alone
    waits for the server. An event that the server has begun to send is not taken back; one more may
    wait behind it, such as the one that says why the WebSocket is closed, for a minute.

    Where a server has receipts, its sends can be cancelled anyway, and cost nothing more.

    Args:
        app: what sends.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket, or whatever else."""
        if scope["type"] != "websocket" or EXTENSION in scope.get("extensions", {}):
            await self._app(scope, receive, send)
            return
        with _Outbox(send) as outbox:
            async with background_tasks() as tasks:
                tasks.start_soon(outbox.serve)
                await self._app(scope, receive, outbox.send)
                with anyio.move_on_after(_LAST_WORDS_SECONDS):
                    await outbox.empty()


class _Order(NamedTuple):
    event: Message
    done: Waiter[bool]


class _Outbox:
    """What is to be sent: one event at a time, and one more behind it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._drained = anyio.Event()
        self._orders_in, self._orders = anyio.create_memory_object_stream[_Order](1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._orders_in.close()
        self._orders.close()

    async def send(self, event: Message) -> None:
        """Send an event; return when the server has taken it, and raise what it raises."""
        order = _Order(event, Waiter[bool]())
        await self._orders_in.send(order)
        await order.done.wait()

    async def empty(self) -> None:
        """Wait until everything is sent; from now on nothing is taken."""
        self._orders_in.close()
        await self._drained.wait()

    async def serve(self) -> None:
        async for order in self._orders:
            try:
                await self._send(order.event)
            except Exception as error:  # it is for whoever wants to send this
                order.done.fail(error)
            else:
                order.done.set(True)
        self._drained.set()
