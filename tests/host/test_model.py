"""The host keeps its promises while connections are cut between any two steps of the tasks.

docs/explanation/delivery.md has the invariants.
"""

from __future__ import annotations

import os
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from kernelproto import KernelDied
from kernelproto.client.observers import MessageStream
from kernelproto.host.channels import open_link_channels
from kernelproto.host.link import Link
from kernelproto.host.protocol import HostProtocol
from kernelproto.launch.programs.host import frames, zmtp
from kernelproto.launch.programs.host.connection import Connection
from kernelproto.launch.programs.host.kernel import Kernel
from kernelproto.wire.message import Header, Message
from tests.host.model import KERNEL_ID, Host
from tests.simulation import schedule

# An environment variable raises the number for a long run.
EPISODES = int(os.environ.get("KERNELPROTO_HOST_EPISODES", "20"))
MESSAGES = 60
REQUESTS = 15
GUARD_SECONDS = 200  # of the simulated clock

# The chance that the connection is cut after a step of a task.
CUT = 0.004


class Broken(Exception):
    """An invariant does not hold."""


class Program:
    """A program that owns the kernel until it is killed or the kernel has ended.

    Attributes:
        received: the numbers of the messages that the program has received, and so acknowledges.
        read: the numbers of those that a reader has got.
    """

    def __init__(self, host: Host, name: str, chance: random.Random) -> None:
        self.link = Link(host.connect, kernel_id=KERNEL_ID, claim=name, first={"op": "attach"})
        self.received: list[int] = []
        self.read: list[int] = []
        self.stream = MessageStream(("iopub",), None, limit=2**20, overflow="raise")
        self._chance = chance

    def deliver(self, channel: str, parts: Sequence[bytes | memoryview]) -> None:
        self.received.append(int(bytes(parts[-1])))
        header = Header(msg_id=str(self.received[-1]), msg_type="stream")
        self.stream.offer(Message.build(header, {}), "iopub")

    async def run(self, requests: Sequence[bytes]) -> None:
        """Read messages and send requests until the kernel has ended."""
        await self.link.first_answer()
        async with (
            open_link_channels(self.link, self.deliver, [b""]) as channels,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._read)
            for request in requests:
                await anyio.sleep(self._chance.random() / 10)
                await channels.send("shell", [request])
            await self.link.drive(lambda: self.link.exit is not None)
            self.stream.fail(KernelDied("the kernel has ended"))
        await self.link.aclose()

    async def _read(self) -> None:
        try:
            async for message, _ in self.stream:
                self.read.append(int(message.msg_id))
                if self._chance.random() < 0.3:
                    await anyio.sleep(self._chance.random() / 20)
        except KernelDied:
            return


def check(holds: bool, text: str) -> None:
    if not holds:
        raise Broken(text)


@contextmanager
def failures_named() -> Generator[None]:
    """Raise Broken for the first failure of the tasks of the block."""
    try:
        yield
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        text = "the episode does not end" if isinstance(error, TimeoutError) else repr(error)
        raise error if isinstance(error, Broken) else Broken(text) from None


def play(seed: int, folder: Path) -> Host:
    """Run an episode; raise Broken if an invariant does not hold."""
    chance = random.Random(seed)
    host = Host(folder, chance)
    programs: list[Program] = []
    requests = [f"request {number}".encode() for number in range(REQUESTS)]
    ends_at_once = chance.random() < 0.5

    async def emit() -> None:
        for _ in range(MESSAGES):
            await anyio.sleep(chance.random() / 20)
            host.emit()

    async def main() -> None:
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(host.run)
                async with anyio.create_task_group() as kernel:
                    kernel.start_soon(emit)
                    for number in range(chance.randint(0, 2)):  # programs that are killed
                        program = Program(host, f"killed {number}", chance)
                        programs.append(program)
                        with anyio.move_on_after(chance.random()):
                            await program.run([])
                        await program.link.aclose()
                    last = Program(host, "last", chance)
                    programs.append(last)
                    kernel.start_soon(last.run, requests)
                    while host.sent < MESSAGES or len(host.taken) < REQUESTS:  # noqa: ASYNC110
                        await anyio.sleep(0.1)
                    if ends_at_once:
                        host.emit()
                    else:
                        await anyio.sleep(10)  # longer than any pause before a connection
                        waiting = any(last.link.protocol._unacknowledged)
                        check(not waiting, "a request stays unacknowledged")
                        kept = host.kernel.log.last - host.kernel.log.acknowledged
                        check(not kept, "a message stays in the log")
                    host.end()
                tasks.cancel_scope.cancel()

    def between(step: int) -> None:
        if host.sent < MESSAGES and chance.random() < CUT:
            host.cut()

    with failures_named():
        schedule.run(main, seed=str(seed), between=between)
    end = 0
    for number, program in enumerate(programs):
        received = program.received
        if received:
            check(received[0] <= end + 1, f"program {number} misses messages before {received[0]}")
            whole = list(range(received[0], received[-1] + 1))
            check(received == whole, f"program {number} has received {received}")
            end = received[-1]
    check(end == host.sent, f"only {end} of {host.sent} messages were received")
    last = programs[-1]
    check(last.read == last.received, f"the reader has got {last.read} of {last.received}")
    taken = [bytes(zmtp.split(message)[0]) for channel, message in host.taken]
    check(taken == requests, f"the kernel has taken {taken}")
    host.kernel.log.close()
    return host


def play_all(folder: Path, episodes: int = EPISODES) -> int:
    """Run all episodes; return how often a connection was cut."""
    return sum(play(seed, folder).cuts for seed in range(episodes))


def test_every_promise_of_a_host_holds(tmp_path: Path) -> None:
    assert play_all(tmp_path) > EPISODES


def test_seed_repeats_an_episode(tmp_path: Path) -> None:
    assert schedule.can_order(), "this version of Trio has changed: see schedule.py"
    assert play(3, tmp_path).cuts == play(3, tmp_path).cuts


async def without_the_last(self: MessageStream) -> object:
    if self._failure is not None and len(self._buffer) == 1:
        self._buffer.clear()
    return await read_next(self)


def resume_after(self: HostProtocol, ok: dict[str, object]) -> None:
    self._unacknowledged[frames.SHELL].clear()
    resume(self, ok)


def attach_behind(self: Connection, kernel: object, after: int) -> None:
    attach(self, kernel, after + 1)


def take_again(self: Kernel, channel: int, number: int, message: bytes) -> bool:
    self.taken[channel] = number - 1
    return take(self, channel, number, message)


def never(self: object, *arguments: object) -> None:
    return None


read_next, resume, attach = MessageStream.__anext__, HostProtocol._resume, Connection.attach
take = Kernel.take


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "words"),
    [
        (MessageStream, "__anext__", without_the_last, "the reader has got"),
        (HostProtocol, "_resume", resume_after, "does not end"),
        (HostProtocol, "acknowledge", never, "stays in the log"),
        (Connection, "attach", attach_behind, "misses messages|has received"),
        (Kernel, "take", take_again, "has taken"),
        (Connection, "_put_acknowledgements", never, "unacknowledged"),
    ],
)
def test_fault_in_the_code_is_found(
    owner: type, name: str, mutant: object, words: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(Broken, match=words):
        play_all(tmp_path, 20 * EPISODES)
