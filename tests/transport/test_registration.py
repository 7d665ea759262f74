from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import anyio
import pytest
import zmq

from kernelproto.exceptions import MalformedMessage
from kernelproto.transport import registration as module
from kernelproto.transport.registration import RegistrationSocket, listen_for_registration

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


def receive(frames: Sequence[bytes]) -> tuple[str, Sequence[bytes]]:
    """Accept a message that begins with "register"."""
    identity, *content = frames
    if content[0] != b"register":
        raise MalformedMessage("this is no registration")
    return content[1].decode(), [identity, b"registered", *content[1:]]


Connect = Callable[[RegistrationSocket], zmq.Socket[bytes]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Give a function that connects like a kernel."""
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())

        def connect(listener: RegistrationSocket) -> zmq.Socket[bytes]:
            raw = stack.enter_context(context.socket(zmq.DEALER))
            raw.set(zmq.LINGER, 0)
            raw.set(zmq.RCVTIMEO, GUARD_SECONDS * 1000)
            raw.connect(f"tcp://127.0.0.1:{listener.port}")
            return raw

        yield connect


async def wait_for(listener: RegistrationSocket) -> str:
    with anyio.fail_after(GUARD_SECONDS):
        return await listener.answer_first(receive)


async def test_kernel_is_answered_also_when_the_socket_closes_at_once(connect) -> None:
    with listen_for_registration() as listener:
        kernel = connect(listener)
        kernel.send_multipart([b"register", b"me"])
        assert await wait_for(listener) == "me"
    assert kernel.recv_multipart() == [b"registered", b"me"]


async def test_second_registration_changes_nothing(connect) -> None:
    with listen_for_registration() as listener:
        first, second = connect(listener), connect(listener)
        first.send_multipart([b"register", b"first"])
        first.send_multipart([b"register", b"again"])
        assert await wait_for(listener) == "first"
        second.send_multipart([b"register", b"second"])
    assert first.recv_multipart() == [b"registered", b"first"]
    assert not first.poll(0)
    assert not second.poll(0)


async def test_others_are_refused_in_silence_but_for_one_warning(connect, caplog) -> None:
    with listen_for_registration() as listener:
        strangers = [connect(listener) for _ in range(5)]
        for stranger in strangers:
            for message in ([b""], [b"x"] * 100, [b"unregistered", b"me"]):
                stranger.send_multipart(message)
        kernel = connect(listener)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for, listener)
            await anyio.wait_all_tasks_blocked()
            kernel.send_multipart([b"register", b"me"])
        assert kernel.recv_multipart() == [b"registered", b"me"]
        assert not any(stranger.poll(0) for stranger in strangers)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "this is no registration" in record.getMessage()


async def test_flood_does_not_keep_the_kernel_out(connect) -> None:
    with listen_for_registration() as listener:
        stranger, kernel = connect(listener), connect(listener)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for, listener)
            for _ in range(10_000):
                try:
                    stranger.send(b"x" * 1000, zmq.NOBLOCK)
                except zmq.Again:
                    break
            kernel.send_multipart([b"register", b"me"])
        assert kernel.recv_multipart() == [b"registered", b"me"]


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(b"\xff" * 100_000, id="noise"),
        pytest.param(b"", id="silence"),
    ],
)
async def test_connections_without_zmq_are_ignored(connect, garbage) -> None:
    with (
        listen_for_registration() as listener,
        socket.create_connection(("127.0.0.1", listener.port)) as stranger,
    ):
        stranger.sendall(garbage)
        kernel = connect(listener)
        kernel.send_multipart([b"register", b"me"])
        assert await wait_for(listener) == "me"


async def test_frame_that_is_too_large_is_not_received(connect) -> None:
    with listen_for_registration() as listener:
        stranger = connect(listener)
        stranger.send_multipart([b"register", b"x" * (module._LARGEST_FRAME_BYTES + 1)])
        kernel = connect(listener)
        kernel.send_multipart([b"register", b"me"])
        assert await wait_for(listener) == "me"


async def test_cancelled_wait(connect) -> None:
    with listen_for_registration() as listener:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.answer_first, receive)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught


async def test_the_port_is_exclusive_and_on_loopback_only() -> None:
    with listen_for_registration() as listener:
        with socket.socket() as probe, pytest.raises(OSError, match="in use"):
            probe.bind(("127.0.0.1", listener.port))
        with socket.socket() as other:  # another address of this machine is free
            other.bind(("127.0.0.2", listener.port))


async def test_no_port_is_left(monkeypatch) -> None:
    monkeypatch.setattr(module, "LOOPBACK", "192.0.2.1")  # not an address of this machine
    with pytest.raises(OSError, match=r".") as caught, listen_for_registration():
        raise AssertionError("it does listen")
    assert caught.value.errno
