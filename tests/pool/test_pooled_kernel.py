from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import anyio
import pytest

from kernelproto import ClientClosed, PoolError, Timeouts
from kernelproto.pool.pooled_kernel import ManagedKernel, is_activity
from kernelproto.pool.slots import Lease
from kernelproto.testing import FakeProvider
from kernelproto.wire.message import Message, MessageFactory

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

ADA = Lease("ada", "default")
KERNEL_ID = "8d2a6a02-5d3c-4e0e-9d0a-0f6a4e1a7c11"


def managed_kernel(lease: Lease, changes: list[tuple[bool, bool]] | None = None) -> ManagedKernel:
    def on_change(managed: ManagedKernel) -> None:
        if changes is not None:
            changes.append((managed.busy, managed.dead))

    return ManagedKernel(
        1,
        lease,
        "fake/kernel",
        kernel_id=KERNEL_ID,
        counts=Counter(),
        deaths=Counter(),
        on_change=on_change,
    )


async def test_life() -> None:
    changes: list[tuple[bool, bool]] = []
    begun_at = datetime.now(UTC)
    managed = managed_kernel(ADA, changes)
    async with FakeProvider() as fakes, anyio.create_task_group() as tasks:
        assert (managed.running, managed.look()) == (False, False)
        assert managed.describe(0).state == "starting"
        tasks.start_soon(
            managed.serve, lambda **changes: fakes.launch("kernel"), None, Timeouts(), None
        )
        kernel = await managed.ready.wait()
        assert changes == [(False, False)]
        assert kernel.kernel_id == managed.kernel_id == KERNEL_ID

        await kernel.execute("1")
        assert changes == [(False, False), (True, False), (False, False)]
        model = managed.describe(7)
        assert (model.user, model.name, model.kernel_type) == ("ada", "default", "fake/kernel")
        assert (model.state, model.connections) == ("idle", 7)
        assert begun_at <= model.started_at <= model.last_activity <= datetime.now(UTC)

        managed.end(ClientClosed("it was ended"))
        await managed.gone.wait()
        assert changes[-1] == (False, True)
        assert managed.describe(0).state == "dead"
        assert fakes.kernels[0].returncode == 0


async def test_death_is_told() -> None:
    changes: list[tuple[bool, bool]] = []
    managed = managed_kernel(ADA, changes)
    async with FakeProvider() as fakes, anyio.create_task_group() as tasks:
        tasks.start_soon(
            managed.serve, lambda **changes: fakes.launch("kernel"), None, Timeouts(), None
        )
        kernel = await managed.ready.wait()
        async with kernel.client.messages() as messages:
            fakes.kernels[0].die()
            with pytest.raises(Exception, match="died"):
                await anext(messages)
        assert changes[-1] == (False, True)
        managed.end(ClientClosed("it was ended"))


async def test_end_before_it_began() -> None:
    managed = managed_kernel(ADA)
    async with FakeProvider() as fakes:
        managed.end(ClientClosed("it was ended"))
        await managed.serve(lambda **changes: fakes.launch("kernel"), None, Timeouts(), None)
        assert fakes.kernels == []
    with pytest.raises(PoolError, match="kernel 'default' of 'ada'"):
        await managed.ready.wait()


async def test_unexpected_exception_is_logged_with_its_traceback(caplog) -> None:
    async def launch(**changes):
        raise ZeroDivisionError

    managed = managed_kernel(ADA)
    await managed.serve(launch, None, Timeouts(), None)
    assert "could not be started" in caplog.text
    assert "Traceback" in caplog.text
    with pytest.raises(ZeroDivisionError):
        await managed.ready.wait()


async def test_kernel_that_cannot_be_watched_is_ended(caplog) -> None:
    """Its death would never be noticed."""
    managed = managed_kernel(ADA)
    async with FakeProvider() as fakes, anyio.create_task_group() as tasks:
        fail = anyio.Event()

        async def launch(**changes):
            info, manager = await fakes.launch("kernel")

            async def wait():
                await fail.wait()
                raise OSError("the manager is broken")

            manager.wait = wait
            return info, manager

        tasks.start_soon(managed.serve, launch, None, Timeouts(), None)
        await managed.ready.wait()
        fail.set()
        await managed.gone.wait()
        assert "has failed: the manager is broken" in caplog.text
        assert fakes.kernels[0].returncode is not None


def message(msg_type: str, parent: str | None) -> Message:
    factory = MessageFactory(
        session="s", username="u", new_id=lambda: "1", now=lambda: "2026-01-01T00:00:00Z"
    )
    asked = None if parent is None else factory.message(parent, {})
    return factory.message(msg_type, {}, parent=asked)


@pytest.mark.parametrize(
    ("msg_type", "parent", "counts"),
    [
        ("status", "execute_request", True),
        ("stream", "execute_request", True),
        ("execute_input", "execute_request", True),
        ("status", "complete_request", True),
        ("comm_msg", "comm_msg", True),
        ("status", "something_new_request", True),
        ("stream", None, True),
        ("comm_msg", None, True),
        ("status", "kernel_info_request", False),
        ("status", "comm_info_request", False),
        ("status", "debug_request", False),
        ("debug_event", "debug_request", False),
        ("status", "interrupt_request", False),
        ("status", "shutdown_request", False),
        ("status", "usage_request", False),
        ("status", None, False),
        ("iopub_welcome", None, False),
    ],
)
def test_messages_that_count_as_activity(msg_type: str, parent: str | None, counts: bool) -> None:
    assert is_activity(message(msg_type, parent), "iopub") is counts


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
def test_replies_are_no_activity(channel) -> None:
    assert not is_activity(message("execute_reply", "execute_request"), channel)
