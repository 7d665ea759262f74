from __future__ import annotations

import os
import signal

import anyio
import pytest

from kernelproto.cli.signals import Signals, receive_signals

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def interrupted_by(signum: int, signals: Signals) -> None:
    """Send this process a signal, and wait until the running code is interrupted."""
    interrupted = anyio.Event()

    async def interrupt() -> None:
        interrupted.set()

    with signals.interrupting(interrupt):
        os.kill(os.getpid(), signum)
        await interrupted.wait()


async def test_ctrl_c_interrupts_running_code() -> None:
    async with receive_signals() as signals:
        await interrupted_by(signal.SIGINT, signals)
        assert (signals.interrupts, signals.ended_by) == (1, None)
        await interrupted_by(signal.SIGINT, signals)  # other code, with a count of its own
        assert (signals.interrupts, signals.ended_by) == (1, None)


async def test_second_ctrl_c_ends_the_block() -> None:
    async with receive_signals() as signals:
        interrupted = anyio.Event()

        async def interrupt() -> None:
            interrupted.set()

        with signals.interrupting(interrupt):
            os.kill(os.getpid(), signal.SIGINT)
            await interrupted.wait()
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()
    assert signals.ended_by == signal.SIGINT


async def test_sigterm_ends_the_block_while_code_runs() -> None:
    async def interrupt() -> None:
        pytest.fail("SIGTERM does not interrupt")

    async with receive_signals() as signals:
        with signals.interrupting(interrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep_forever()
    assert (signals.ended_by, signals.interrupts) == (signal.SIGTERM, 0)


async def test_ctrl_c_without_running_code_ends_the_block() -> None:
    async with receive_signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()
    assert signals.ended_by == signal.SIGINT


async def test_idle_ctrl_c_may_be_ignored() -> None:
    async with receive_signals() as signals:
        signals.idle_ends = False
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # handled after it
        await anyio.sleep_forever()
    assert signals.ended_by == signal.SIGTERM


async def test_failing_interrupt_does_not_end_the_block(caplog) -> None:
    called = anyio.Event()

    async def interrupt() -> None:
        called.set()
        raise OSError("no such process")

    async with receive_signals() as signals:
        with signals.interrupting(interrupt):
            os.kill(os.getpid(), signal.SIGINT)
            await called.wait()
    assert signals.ended_by is None
    assert "no such process" in caplog.text
