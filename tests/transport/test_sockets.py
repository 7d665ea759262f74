"""The common behaviour of all MessageSockets, and their shared context."""

from __future__ import annotations

import contextlib
import inspect
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import zmq
from anyio.lowlevel import checkpoint

from kernelproto.transport.raw import MOST_AT_ONCE, Context, RawSocket
from kernelproto.transport.sockets import MessageSocket, open_socket, shared_context

GUARD_SECONDS = 60


class Pair:
    """A MessageSocket, and a plain blocking one as its peer, which does not listen yet."""

    def __init__(self, context: Context, endpoint: str) -> None:
        self.socket: MessageSocket = open_socket(context, zmq.PAIR)
        self.peer: RawSocket = context.socket(zmq.PAIR)
        self.peer.set(zmq.RCVTIMEO, GUARD_SECONDS * 1000)
        self.peer.set(zmq.SNDTIMEO, GUARD_SECONDS * 1000)
        self._endpoint = endpoint

    def connect(self, *, send_buffer: int = 1000) -> None:
        self.socket.raw.set(zmq.RECONNECT_IVL, 2)
        self.socket.raw.set(zmq.SNDHWM, send_buffer)
        self.socket.raw.connect(self._endpoint)

    def listen(self) -> None:
        self.peer.bind(self._endpoint)

    def fill(self) -> int:
        """Send until there is no room, and say how much there was."""
        count = 0
        while self.socket.try_send([b"%d" % count]):
            count += 1
        return count

    def wait_for_edge(self) -> None:
        """Let the event loop stand still until something has happened to the socket."""
        assert select.select([self.socket.raw.get(zmq.FD)], [], [], GUARD_SECONDS)[0]

    def close(self) -> None:
        self.socket.close(0)
        self.peer.close(0)


@pytest.fixture
async def pair(info):
    with shared_context() as context:
        pair = Pair(context, info.endpoint("shell"))
        yield pair
        pair.close()


async def all_blocked() -> None:
    """Like anyio.wait_all_tasks_blocked, but without its nap on asyncio."""
    for _ in range(10):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


def numbered(count: int) -> list[list[bytes]]:
    return [[b"%d" % number, b"", b"payload"] for number in range(count)]


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
class TestMessageSocket:
    async def test_receives_whole_messages_in_order(self, pair) -> None:
        pair.connect()
        pair.listen()
        received: list[list[bytes]] = []
        for message in numbered(500):
            pair.peer.send_multipart(message)
        with anyio.fail_after(GUARD_SECONDS):
            while len(received) < 500:
                received += await pair.socket.receive()
        assert received == numbered(500)

    async def test_receives_a_bounded_number_at_once(self, pair) -> None:
        pair.connect()
        pair.listen()
        received = []
        for _ in range(MOST_AT_ONCE * 3):
            pair.peer.send(b"")
        with anyio.fail_after(GUARD_SECONDS):
            while sum(received) < MOST_AT_ONCE * 3:
                received.append(len(await pair.socket.receive()))
        assert max(received) <= MOST_AT_ONCE

    async def test_receiving_waiting_messages_lets_other_tasks_run(self, pair) -> None:
        pair.connect()
        pair.listen()
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await checkpoint()

        for _ in range(20):
            pair.peer.send(b"first")
        pair.wait_for_edge()
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count_turns)
                await pair.socket.receive()
                for number in range(20):
                    pair.peer.send(b"%d" % number)
                    await pair.socket.receive()
                tasks.cancel_scope.cancel()
        assert turns >= 20

    async def test_sends_whole_messages_in_order(self, pair) -> None:
        pair.connect()
        pair.listen()
        for number, message in enumerate(numbered(500)):
            if number % 2:
                await pair.socket.send(message)
            else:
                assert pair.socket.try_send(message)
        assert [pair.peer.recv_multipart() for _ in range(500)] == numbered(500)

    async def test_a_full_buffer_refuses_the_message(self, pair) -> None:
        pair.connect(send_buffer=10)
        assert pair.fill() == 10
        assert not pair.socket.try_send([b"too many"])
        pair.listen()
        assert [pair.peer.recv() for _ in range(10)] == [b"%d" % number for number in range(10)]

    async def test_blocked_senders_go_on_in_order_when_the_peer_appears(self, pair) -> None:
        pair.connect(send_buffer=10)
        pair.fill()
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(10, 60):
                    tasks.start_soon(pair.socket.send, [b"%d" % number])
                    await all_blocked()
                pair.listen()
                arrived = await anyio.to_thread.run_sync(
                    lambda: [pair.peer.recv() for _ in range(60)]
                )
        assert arrived == [b"%d" % number for number in range(60)]

    async def test_messages_do_not_overtake_a_blocked_sender(self, pair) -> None:
        pair.connect(send_buffer=1)
        pair.fill()
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pair.socket.send, [b"1"])
                await all_blocked()
                pair.listen()
                assert pair.peer.recv() == b"0"
                pair.wait_for_edge()  # there is room, and the first does not know it yet
                await pair.socket.send([b"2"])
        assert pair.peer.recv() == b"1"
        assert pair.peer.recv() == b"2"

    @pytest.mark.parametrize("which", [0, 1, 2], ids=["first", "middle", "last"])
    async def test_cancelling_one_blocked_sender_leaves_the_others(self, pair, which) -> None:
        pair.connect(send_buffer=1)
        pair.fill()
        scopes = [anyio.CancelScope() for _ in range(3)]

        async def send(number: int) -> None:
            with scopes[number]:
                await pair.socket.send([b"sender %d" % number])

        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(send, number)
                    await all_blocked()
                scopes[which].cancel()
                await all_blocked()
                pair.listen()
        assert pair.peer.recv() == b"0"
        assert [pair.peer.recv() for _ in range(2)] == [
            b"sender %d" % number for number in range(3) if number != which
        ]
        assert not pair.peer.poll(0)

    @pytest.mark.parametrize("listens", [False, True], ids=["receives", "listens"])
    async def test_a_send_takes_no_wake_up_from_the_receiver(self, pair, listens: bool) -> None:
        pair.connect()
        pair.listen()
        received: list[list[bytes]] = []
        arrived = anyio.Event()

        def take(message: list[bytes]) -> None:
            received.append(message)
            arrived.set()

        async def receive() -> None:
            while True:
                for message in await pair.socket.receive():
                    take(message)

        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(*((pair.socket.listen, take) if listens else (receive,)))
                for number in range(300):
                    arrived = anyio.Event()
                    await all_blocked()
                    pair.peer.send(b"%d" % number)
                    # The edge has arrived and is unread, and sending clears it.
                    pair.wait_for_edge()
                    if number % 2:
                        await pair.socket.send([b""])
                    else:
                        assert pair.socket.try_send([b""])
                    pair.peer.recv()
                    await arrived.wait()
                tasks.cancel_scope.cancel()
        assert received == [[b"%d" % number] for number in range(300)]

    async def test_a_receiver_takes_no_wake_up_from_the_sender(self, pair) -> None:
        pair.connect(send_buffer=1)
        pair.fill()
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pair.socket.send, [b"1"])
                await all_blocked()
                pair.listen()
                assert pair.peer.recv() == b"0"
                # There is room, unnoticed, and an empty receive clears the edge.
                pair.wait_for_edge()
                tasks.start_soon(anyio.to_thread.run_sync, pair.peer.recv)
                with anyio.move_on_after(0):
                    await pair.socket.receive()

    @pytest.mark.parametrize("listens", [False, True], ids=["receives", "listens"])
    async def test_both_directions_at_full_rate(self, pair, listens: bool) -> None:
        count = 10_000
        pair.connect()
        pair.listen()
        received: list[list[bytes]] = []

        def serve() -> list[list[bytes]]:
            """Send and receive at once, from another thread."""
            arrived: list[list[bytes]] = []
            for message in numbered(count):
                pair.peer.send_multipart(message)
                while pair.peer.poll(0):
                    arrived.append(pair.peer.recv_multipart())
            while len(arrived) < count:
                arrived.append(pair.peer.recv_multipart())
            return arrived

        async def send() -> None:
            for message in numbered(count):
                if not pair.socket.try_send(message):
                    await pair.socket.send(message)

        def take(message: list[bytes]) -> None:
            received.append(message)
            if len(received) == count:
                raise EnoughError

        async def receive() -> None:
            with contextlib.suppress(EnoughError):
                if listens:
                    await pair.socket.listen(take)
                while True:
                    for message in await pair.socket.receive():
                        take(message)

        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                tasks.start_soon(send)
                arrived = await anyio.to_thread.run_sync(serve)
        assert received == numbered(count)
        assert arrived == numbered(count)


class EnoughError(Exception):
    """Ends ``listen`` when the awaited messages have arrived."""


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
class TestListening:
    async def test_earlier_and_later_messages_are_listened_to(self, pair) -> None:
        pair.connect()
        pair.listen()
        received: list[list[bytes]] = []
        before, later = anyio.Event(), anyio.Event()

        def take(message: list[bytes]) -> None:
            received.append(message)
            {250: before, 500: later}.get(len(received), anyio.Event()).set()

        first, second = numbered(500)[:250], numbered(500)[250:]
        for message in first:
            pair.peer.send_multipart(message)
        pair.wait_for_edge()
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pair.socket.listen, take)
                await before.wait()
                for message in second:
                    pair.peer.send_multipart(message)
                await later.wait()
                tasks.cancel_scope.cancel()
        assert received == numbered(500)

    async def test_lets_others_run(self, pair) -> None:
        pair.connect()
        pair.listen()
        turns = [0]

        async def count_turns() -> None:
            while True:
                turns[-1] += 1
                await checkpoint()

        def take(message: list[bytes]) -> None:
            turns.append(0)
            if message == [b"last"]:
                raise EnoughError

        for _ in range(MOST_AT_ONCE * 3):
            pair.peer.send(b"")
        pair.peer.send(b"last")
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count_turns)
                with pytest.raises(EnoughError):
                    await pair.socket.listen(take)
                tasks.cancel_scope.cancel()
        assert sum(turn > 0 for turn in turns) >= 2

    async def test_hears_nothing_more_once_it_has_raised_or_was_cancelled(self, pair) -> None:
        pair.connect()
        pair.listen()

        def take(message: list[bytes]) -> None:
            raise EnoughError(message)

        with anyio.fail_after(GUARD_SECONDS):
            pair.peer.send(b"one")
            with pytest.raises(EnoughError):
                await pair.socket.listen(take)
            pair.peer.send(b"two")
            pair.wait_for_edge()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await pair.socket.listen(take)
            assert scope.cancelled_caught
            await all_blocked()
            assert await pair.socket.receive() == [[b"two"]]

    async def test_may_use_anyio(self, pair) -> None:
        pair.connect()
        pair.listen()
        times: list[float] = []

        def take(message: list[bytes]) -> None:
            times.append(anyio.current_time())
            raise EnoughError

        with anyio.fail_after(GUARD_SECONDS):
            pair.peer.send(b"")
            with pytest.raises(EnoughError):
                await pair.socket.listen(take)
        assert times[0] <= anyio.current_time()


def threads() -> set[str]:
    """Name all threads, those that Python knows nothing of as well."""
    return set(os.listdir("/proc/self/task"))


@pytest.mark.usefixtures("no_leaks")
class TestSharedContext:
    def test_users_share_one(self) -> None:
        with shared_context() as one:
            with shared_context() as two:
                assert one is two
            assert not one.closed
        assert one.closed

    def test_the_context_lives_while_it_is_used(self) -> None:
        with ExitStack() as first, ExitStack() as second:
            context = first.enter_context(shared_context())
            second.enter_context(shared_context())
            first.close()
            assert not context.closed
        assert context.closed

    def test_the_next_user_gets_a_new_one(self) -> None:
        with shared_context() as one:
            pass
        with shared_context() as two:
            assert not two.closed
        assert one is not two

    def test_an_exception_ends_the_use(self) -> None:
        with pytest.raises(ValueError, match="mine"), shared_context() as context:
            raise ValueError("mine")
        assert context.closed

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
    def test_its_threads_live_only_while_it_is_used(self) -> None:
        before = threads()
        with shared_context() as context, context.socket(zmq.PAIR):
            its_own = threads() - before
        assert its_own
        deadline = time.monotonic() + GUARD_SECONDS
        while its_own & threads():  # they have ended, but the system has yet to bury them
            assert time.monotonic() < deadline

    def test_many_more_sockets_than_libzmq_has_by_default(self) -> None:
        with shared_context() as context:
            assert context.get(zmq.MAX_SOCKETS) > 10_000

    def test_threads_share_one(self) -> None:
        rounds: list[set[Context]] = [set() for _ in range(20)]
        together = threading.Barrier(8, timeout=GUARD_SECONDS)

        def use() -> None:
            for contexts in rounds:
                with shared_context() as context, context.socket(zmq.PAIR):
                    contexts.add(context)
                    together.wait()

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for contexts in rounds:
            (context,) = contexts
            assert context.closed

    @pytest.mark.parametrize("used", [False, True], ids=["unused before", "used before"])
    def test_a_forked_child_has_its_own(self, used) -> None:
        script = f"""
            import os, sys, zmq
            from contextlib import nullcontext
            from kernelproto.transport.sockets import shared_context

            def talk():
                with shared_context() as context:
                    with context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
                        port = one.bind_to_random_port("tcp://127.0.0.1")
                        two.connect(f"tcp://127.0.0.1:{{port}}")
                        two.send(b"hello")
                        assert one.poll({GUARD_SECONDS} * 1000)
                        return context

            with shared_context() if {used} else nullcontext() as parents:
                child = os.fork()
                context = talk()
                if child == 0:
                    assert context is not parents and context.closed
                    os._exit(7)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
                assert context is parents or not {used}
        """
        subprocess.run(
            [sys.executable, "-W", "error", "-c", inspect.cleandoc(script)],
            check=True,
            timeout=GUARD_SECONDS,
        )
