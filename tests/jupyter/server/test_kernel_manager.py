"""The kernel manager as other extensions of jupyter_server see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_events import EventLogger

from kernelproto import InvalidLaunchParameter, LaunchError
from kernelproto.jupyter.server.kernel_manager import KernelProtoMappingKernelManager
from kernelproto.jupyter.server.kernelspecs import KernelProtoKernelSpecManager

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("no_leaks", "no_server")]

KERNEL_ACTIONS = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"


@asynccontextmanager
async def kernels(**settings: object) -> AsyncGenerator[Any]:
    manager = KernelProtoMappingKernelManager(
        kernel_spec_manager=KernelProtoKernelSpecManager(), **settings
    )
    try:
        yield manager
    finally:
        await manager.shutdown_all()
        manager.context.destroy(linger=0)


async def evaluate(manager: Any, expression: str) -> str:
    """Evaluate an expression over the sockets that an extension opens."""
    shell = manager.connect_shell()
    reply: asyncio.Future[Any] = asyncio.Future()

    def receive(frames: list[Any]) -> None:
        message = manager.session.deserialize(manager.session.feed_identities(frames)[1])
        if message["parent_header"]["msg_id"] == request["header"]["msg_id"]:
            reply.set_result(message["content"])

    try:
        shell.on_recv(receive)
        request = manager.session.send(
            shell,
            "execute_request",
            {"code": "", "silent": True, "user_expressions": {"value": expression}},
        )
        content = await reply
        value: str = content["user_expressions"]["value"]["data"]["text/plain"]
        return value
    finally:
        shell.close(linger=0)


async def test_extension_opens_sockets_of_its_own() -> None:
    async with kernels() as manager:
        kernel = manager.get_kernel(await manager.start_kernel(kernel_name="fork/kernel"))

        assert await evaluate(kernel, "6 * 7") == "42"
        await manager.restart_kernel(kernel.kernel_id)
        assert await evaluate(kernel, "6 * 7") == "42"


async def test_renamed_notebook_has_its_name_after_a_restart() -> None:
    async with kernels() as manager:
        kernel_id = await manager.start_kernel(kernel_name="fork/kernel")
        kernel = manager.get_kernel(kernel_id)

        manager.update_env(kernel_id=kernel_id, env={"JPY_SESSION_NAME": "new.ipynb"})
        await manager.restart_kernel(kernel_id)

        value = await evaluate(kernel, "__import__('os').environ['JPY_SESSION_NAME']")
        assert value == "'new.ipynb'"


async def test_each_action_is_an_event() -> None:
    seen: list[tuple[str, str]] = []

    async def listen(logger: EventLogger, schema_id: str, data: dict[str, str]) -> None:
        seen.append((data["action"], data["status"]))

    async with kernels() as manager:
        kernel_id = await manager.start_kernel(kernel_name="fork/kernel")
        kernel = manager.get_kernel(kernel_id)
        kernel.event_logger.add_listener(schema_id=KERNEL_ACTIONS, listener=listen)

        await manager.interrupt_kernel(kernel_id)
        await manager.restart_kernel(kernel_id)
        with pytest.raises(InvalidLaunchParameter):
            await kernel.restart_kernel(unknown=1)
        await manager.shutdown_kernel(kernel_id)
        await kernel.event_logger.gather_listeners()

    assert sorted(seen) == [
        ("interrupt", "success"),
        ("restart", "error"),
        ("restart", "success"),
        ("shutdown", "success"),
    ]


async def test_refused_restart_leaves_the_kernel_as_it_is() -> None:
    async with kernels() as manager:
        kernel = manager.get_kernel(await manager.start_kernel(kernel_name="fork/kernel"))

        with pytest.raises(InvalidLaunchParameter):
            await kernel.restart_kernel(unknown=1)

        await kernel.ready
        assert await evaluate(kernel, "6 * 7") == "42"


async def test_kernel_whose_restart_has_failed_is_ended(tmp_path: Path) -> None:
    async with kernels() as manager:
        kernel = manager.get_kernel(await manager.start_kernel(kernel_name="fork/kernel"))

        with pytest.raises(LaunchError):
            await kernel.restart_kernel(cwd=tmp_path / "missing")
        await manager.shutdown_kernel(kernel.kernel_id)

        assert manager.list_kernel_ids() == []
        assert not await kernel.is_alive()


async def test_pending_kernel_can_be_awaited() -> None:
    async with kernels(use_pending_kernels=True) as manager:
        kernel_id = await manager.start_kernel(kernel_name="fork/kernel")
        kernel = manager.get_kernel(kernel_id)
        with pytest.raises(RuntimeError, match="pending"):
            await manager.restart_kernel(kernel_id)

        await kernel.ready
        assert await evaluate(kernel, "6 * 7") == "42"
    assert not await kernel.is_alive()


async def test_pending_kernel_that_does_not_exist_fails() -> None:
    async with kernels(use_pending_kernels=True) as manager:
        kernel = manager.get_kernel(await manager.start_kernel(kernel_name="fork/none"))

        with pytest.raises(NoSuchKernel):
            await kernel.ready
