"""The kernel manager as other extensions of jupyter_server see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_events import EventLogger

from kernelproto import InvalidLaunchParameter, LaunchError, run_kernel
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


async def test_idle_kernel_is_culled_and_a_used_one_is_not() -> None:
    async with kernels(cull_idle_timeout=60) as manager:
        used = manager.get_kernel(await manager.start_kernel(kernel_name="fork/kernel"))
        idle = manager.get_kernel(await manager.start_kernel(kernel_name="fork/kernel"))
        for kernel in (used, idle):
            kernel.last_activity -= timedelta(hours=1)
        before = used.last_activity
        is_noted = asyncio.Event()
        used.observe(lambda _: is_noted.set(), "last_activity")
        assert await evaluate(used, "6 * 7") == "42"
        await is_noted.wait()

        await manager.cull_kernels()

        assert manager.list_kernel_ids() == [used.kernel_id]
        assert used.last_activity > before + timedelta(minutes=59)
        assert not await idle.is_alive()


@pytest.mark.parametrize("method", ["request_shutdown", "finish_shutdown", "cleanup_resources"])
async def test_method_of_a_launch_by_jupyter_client_is_refused(method: str) -> None:
    async with kernels() as manager:
        kernel = manager.get_kernel(await manager.start_kernel(kernel_name="fork/kernel"))

        with pytest.raises(NotImplementedError, match=f"{method}.*: call shutdown_kernel"):
            await getattr(kernel, method)()


async def test_kernel_of_another_program_is_used_and_left_running(tmp_path: Path) -> None:
    async with run_kernel("pyimport/kernel", launch_params={"transport": "tcp"}) as other:
        await other.execute("a = 6")
        (tmp_path / "kernel-other.json").write_text(other.connection_info.to_json().decode())
        async with kernels(external_connection_dir=str(tmp_path)) as manager:
            (model,) = manager.list_kernels()
            kernel = manager.get_kernel(model["id"])

            assert not kernel.owns_kernel
            assert await evaluate(kernel, "a * 7") == "42"
            await manager.shutdown_kernel(model["id"])
        assert (await other.execute("a")).text == "6"
