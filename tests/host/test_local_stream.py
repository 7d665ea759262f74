from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio.abc import UNIXSocketStream

from kernelproto.host.local_stream import connect_local

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 20


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # so that the path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen()
        yield listener


async def test_bytes_that_fill_the_socket_pass_both_ways(listener) -> None:
    data = bytes(range(256)) * 2**13  # more than a socket holds
    with anyio.fail_after(GUARD_SECONDS):
        async with await connect_local("socket") as near:
            far = await UNIXSocketStream.from_socket(listener.accept()[0])
            async with far, anyio.create_task_group() as tasks:
                tasks.start_soon(near.send, data)
                got = bytearray()
                while len(got) < len(data):
                    got += await far.receive()
                assert got == data
                tasks.start_soon(far.send, data)
                got.clear()
                while len(got) < len(data):
                    got += await near.receive(256 * 1024)
                assert got == data


async def test_receive_returns_at_most_the_given_size(listener) -> None:
    async with await connect_local("socket") as near:
        far, _ = listener.accept()
        with far:
            far.sendall(b"12345")
            assert await near.receive(2) == b"12"
            assert await near.receive(2) == b"34"
            assert await near.receive(2) == b"5"


async def test_end_of_the_other_side_is_seen(listener) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with await connect_local("socket") as near:
            far, _ = listener.accept()
            far.close()
            with pytest.raises(anyio.EndOfStream):
                await near.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await near.send(b"lost")


async def test_close_ends_a_receive_that_waits(listener) -> None:
    outcomes: list[BaseException] = []
    with anyio.fail_after(GUARD_SECONDS):
        near = await connect_local("socket")

        async def receive() -> None:
            with pytest.raises(anyio.ClosedResourceError) as caught:
                await near.receive()
            outcomes.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            await anyio.aclose_forcefully(near)
        with pytest.raises(anyio.ClosedResourceError):
            await near.receive()
        assert outcomes


async def test_cancelled_receive_loses_nothing(listener) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with await connect_local("socket") as near:
            far, _ = listener.accept()
            with far:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(near.receive)
                    await anyio.wait_all_tasks_blocked()
                    far.sendall(b"kept")
                    tasks.cancel_scope.cancel()
                assert await near.receive() == b"kept"


async def test_socket_on_which_nothing_listens_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        await connect_local(str(tmp_path / "none"))
