"""A receiver and a sender share one descriptor; either of them may watch it.

The transport's event loops bring the asyncio socket as well. The common behaviour of all sockets is
tested in test_sockets.py.
"""

from __future__ import annotations

import anyio
import pytest
import zmq
from anyio.lowlevel import checkpoint

from kernelproto.transport.raw import RawSocket
from kernelproto.transport.sockets import MessageSocket, open_socket, shared_context

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60

both_orders = pytest.mark.parametrize(
    "first", ["receiver", "sender"], ids=lambda first: f"{first} watches"
)


async def all_blocked() -> None:
    """Like anyio.wait_all_tasks_blocked, but without its nap on asyncio."""
    for _ in range(10):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


class Shared:
    """A socket with a full send buffer, with a receiving and a sending task."""

    def __init__(self, socket: MessageSocket, peer: RawSocket) -> None:
        self.socket = socket
        self.peer = peer
        self.received = anyio.Event()
        self.sent = anyio.Event()
        self.scopes = {"receiver": anyio.CancelScope(), "sender": anyio.CancelScope()}

    async def receive(self) -> None:
        with self.scopes["receiver"]:
            await self.socket.receive()
            self.received.set()

    async def send(self) -> None:
        with self.scopes["sender"]:
            await self.socket.send([b"last"])
            self.sent.set()

    async def wait(self, tasks: anyio.abc.TaskGroup, first: str) -> None:
        """Let both wait; the first one watches the descriptor, the other one waits for its news."""
        order = [self.receive, self.send] if first == "receiver" else [self.send, self.receive]
        for task in order:
            tasks.start_soon(task)
            await all_blocked()
        assert not self.received.is_set()
        assert not self.sent.is_set()

    def make_room(self) -> None:
        while self.peer.poll(0):
            self.peer.recv()


@pytest.fixture
async def shared():
    with shared_context() as context, context.socket(zmq.PAIR) as peer:
        socket = open_socket(context, zmq.PAIR)
        socket.raw.set(zmq.SNDHWM, 1)
        peer.set(zmq.RCVHWM, 1)
        peer.bind("inproc://here")
        socket.raw.connect("inproc://here")
        while socket.try_send([b"filler"]):
            pass
        yield Shared(socket, peer)
        socket.close(0)


@both_orders
@pytest.mark.parametrize("then", ["message", "room"])
async def test_receiver_and_sender_each_get_their_event(shared, first, then) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            await shared.wait(tasks, first)
            if then == "message":
                shared.peer.send(b"hello")
                await shared.received.wait()
                await all_blocked()
                assert not shared.sent.is_set()
                shared.make_room()
                await shared.sent.wait()
            else:
                shared.make_room()
                await shared.sent.wait()
                await all_blocked()
                assert not shared.received.is_set()
                shared.peer.send(b"hello")
                await shared.received.wait()


@both_orders
async def test_receiver_and_sender_get_their_events_at_once(shared, first) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            await shared.wait(tasks, first)
            shared.peer.send(b"hello")
            shared.make_room()
    assert shared.received.is_set()
    assert shared.sent.is_set()


@both_orders
@pytest.mark.parametrize("cancelled", ["receiver", "sender"])
async def test_when_one_is_cancelled_the_other_goes_on(shared, first, cancelled) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            await shared.wait(tasks, first)
            shared.scopes[cancelled].cancel()
            await all_blocked()
            shared.peer.send(b"hello")
            shared.make_room()
    assert shared.received.is_set() == (cancelled != "receiver")
    assert shared.sent.is_set() == (cancelled != "sender")


@both_orders
async def test_both_are_cancelled(shared, first) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            await shared.wait(tasks, first)
            tasks.cancel_scope.cancel()
    assert not shared.socket.try_send([b"still full"])
