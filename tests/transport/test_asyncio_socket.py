"""The choice of the socket class; test_sockets.py tests the socket itself."""

from __future__ import annotations

import asyncio
import errno
import select

import anyio
import pytest
import zmq
from anyio.lowlevel import checkpoint

from kernelproto.transport.asyncio_socket import AsyncioSocket, usable
from kernelproto.transport.fd_socket import FDSocket
from kernelproto.transport.sockets import open_socket, shared_context

GUARD_SECONDS = 60


class WithoutAddReader(asyncio.SelectorEventLoop):
    """Like the Proactor loop of Windows."""

    add_reader = asyncio.AbstractEventLoop.add_reader


async def talk() -> type:
    """Send a message to oneself, and say which socket carried it."""
    with shared_context() as context:
        one, two = open_socket(context, zmq.PAIR), open_socket(context, zmq.PAIR)
        one.raw.bind("inproc://here")
        two.raw.connect("inproc://here")
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.send, [b"hello"])
                assert await two.receive() == [[b"hello"]]
        one.close(0)
        two.close(0)
    return type(one)


@pytest.mark.parametrize(
    ("backend", "options", "expected"),
    [
        pytest.param("asyncio", {}, AsyncioSocket, id="asyncio"),
        pytest.param("asyncio", {"use_uvloop": True}, AsyncioSocket, id="uvloop"),
        pytest.param(
            "asyncio", {"loop_factory": WithoutAddReader}, FDSocket, id="without add_reader"
        ),
        pytest.param("trio", {}, FDSocket, id="trio"),
    ],
)
def test_the_event_loop_decides_which_socket(backend, options, expected) -> None:
    if options.get("use_uvloop"):
        pytest.importorskip("uvloop")
    assert anyio.run(talk, backend=backend, backend_options=options) is expected


async def open_unwatched() -> None:
    """Open a socket in a loop whose system has no room for another watched descriptor."""

    def add_reader(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    asyncio.get_running_loop().add_reader = add_reader
    with shared_context() as context:
        open_socket(context, zmq.PAIR)


def test_socket_that_cannot_be_watched_does_not_block_the_end_of_the_context(no_leaks) -> None:
    with pytest.raises(OSError, match="No space left"):
        anyio.run(open_unwatched, backend="asyncio")


def test_trio_as_a_guest_of_asyncio_uses_the_descriptor(no_leaks) -> None:
    trio = pytest.importorskip("trio")

    async def host() -> type:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        outcomes = []
        trio.lowlevel.start_guest_run(
            talk,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=lambda outcome: (outcomes.append(outcome), done.set()),
        )
        await done.wait()
        return outcomes[0].unwrap()

    assert asyncio.run(host()) is FDSocket


def test_closing_ends_the_watching(no_leaks) -> None:
    async def open_and_close() -> None:
        loop = asyncio.get_running_loop()
        with shared_context() as context:
            socket = AsyncioSocket(context, zmq.PAIR)
            descriptor = socket.raw.get(zmq.FD)
            socket.close(0)
        assert not loop.remove_reader(descriptor)

    asyncio.run(open_and_close())


def test_unread_messages_do_not_keep_the_event_loop_awake(no_leaks) -> None:
    async def ignore_a_message() -> None:
        with shared_context() as context, context.socket(zmq.PAIR) as peer:
            socket = AsyncioSocket(context, zmq.PAIR)
            peer.bind("inproc://here")
            socket.raw.connect("inproc://here")
            assert not socket.raw.get(zmq.EVENTS) & zmq.POLLIN
            peer.send(b"unread")
            descriptor = [socket.raw.get(zmq.FD)]
            assert select.select(descriptor, [], [], GUARD_SECONDS)[0]
            for _ in range(2):  # the loop looks at the descriptors once in each of its turns
                await checkpoint()
            assert not select.select(descriptor, [], [], 0)[0]
            assert socket.raw.get(zmq.EVENTS) & zmq.POLLIN
            socket.close(0)

    asyncio.run(ignore_a_message())


def test_not_usable_without_an_event_loop() -> None:
    assert not usable()


def test_not_usable_outside_a_task() -> None:
    async def ask() -> bool:
        answer = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: answer.set_result(usable()))
        return await answer

    assert not asyncio.run(ask())
