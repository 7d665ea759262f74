"""Samples that hang are interrupted, and their processes are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
import zmq

from benchmarks.exceptions import Overdue
from benchmarks.lab import Lab, Sizes, open_lab
from benchmarks.limit import limited
from benchmarks.question import Contender, Question

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

# So many interrupts that the work ends before the program, however busy the machine is.
interrupted = partial(limited, "the work", 0.05, lambda text: None, interrupts=100, between=1.0)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab("full") as lab:
        yield lab


def test_work_that_ends_in_time_is_not_interrupted() -> None:
    with limited("the work", 600, lambda text: None):
        pass


def test_failure_of_work_in_time_is_raised_unchanged() -> None:
    with pytest.raises(KeyboardInterrupt), limited("the work", 600, lambda text: None):
        raise KeyboardInterrupt


def test_work_that_blocks_is_interrupted() -> None:
    with pytest.raises(Overdue, match=r"had not ended after 0\.05 s"), interrupted():
        threading.Event().wait()


async def _block_the_event_loop() -> None:
    threading.Event().wait()


async def _send_without_a_peer() -> None:
    """Block like the clients of other libraries whose kernel has ended."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.send(b"")


async def _wait_in_a_shield() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep_forever()


async def _hang_at_the_end() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        await _wait_in_a_shield()


@pytest.mark.parametrize(
    "hang", [_block_the_event_loop, _send_without_a_peer, _wait_in_a_shield, _hang_at_the_end]
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_event_loop_that_hangs_is_interrupted(hang: Callable[[], object], backend: str) -> None:
    with pytest.raises(Overdue), interrupted():
        anyio.run(hang, backend=backend)  # type: ignore[arg-type]


def test_processes_that_interrupted_work_waits_for_are_killed() -> None:
    waiting = [sys.executable, "-c", "import time; time.sleep(600)"]
    handler = signal.signal(signal.SIGINT, lambda *_: None)  # the work goes on
    try:
        with subprocess.Popen(waiting) as earlier:
            with pytest.raises(Overdue), interrupted(), subprocess.Popen(waiting) as process:
                process.wait()

            assert process.returncode == -signal.SIGKILL
            assert earlier.poll() is None
            earlier.kill()
    finally:
        signal.signal(signal.SIGINT, handler)


def test_work_that_cannot_be_interrupted_ends_the_program() -> None:
    program = """if True:
        import signal, sys, threading
        from benchmarks.limit import limited

        signal.signal(signal.SIGINT, lambda *_: None)
        with limited("twenty: a peer, round 1", 0.05, sys.stderr.write, between=0.05):
            threading.Event().wait()
    """
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert "twenty: a peer, round 1 has not ended after 0.05 s" in ended.stderr
    assert "threading.py" in ended.stderr
    assert "twenty: a peer, round 1 cannot be interrupted" in ended.stderr


def test_contender_that_hangs_is_named_and_excluded(lab: Lab) -> None:
    said: list[str] = []
    asked = 0

    def hang(lab: Lab) -> float:
        nonlocal asked
        asked += 1
        threading.Event().wait()
        return 0.0

    question = Question(
        name="twenty",
        title="20 kernels",
        unit="s",
        contenders=[Contender("a", hang), Contender("b", lambda lab: 1.0)],
        rounds=Sizes(2, 1, 1),
    )
    answer = question.ask(lab, said.append, limit=0.05)

    assert asked == 1
    assert answer.failed == {
        "a": "Overdue: it was interrupted, because it had not ended after 0.05 s"
    }
    assert answer.samples == {"b": [1.0, 1.0]}
    assert said[-1].startswith("twenty: a, round 1 failed: Overdue: ")
