"""Pools of several nodes that share a registry."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from kernelproto import KernelPool, PoolError, PoolFull, QuotaExceeded, RegistryError
from kernelproto.interfaces import KernelHandle
from kernelproto.pool import keeping, sharing
from kernelproto.registry import SQLiteRegistry

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left", "clean")]

GUARD_SECONDS = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kernels.sqlite"


def node(registry: SQLiteRegistry, name: str, **options) -> KernelPool:
    options = {"kernel_type": "spec/scripted", "max_per_user": 5, **options}
    return KernelPool(registry=registry, node=name, shared=True, **options)


async def ask(kernel, code: str) -> str:
    return (await kernel.execute(f"say({code}, parent)")).raise_for_error().stdout


async def test_limits_count_the_kernels_of_all_nodes(path: Path) -> None:
    limits = {"max_kernels": 3, "max_per_user": 2}
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            SQLiteRegistry(path) as registry,
            node(registry, "a", **limits) as a,
            node(registry, "b", **limits) as b,
        ):
            await a.get("ada", name="1")
            await b.get("ada", name="2")
            with pytest.raises(QuotaExceeded, match="2 of 2 kernels, on all servers"):
                await b.get("ada", name="3")
            async with a.connection("bob"), b.connection("ada", name="2"):
                with pytest.raises(PoolFull):  # the only idle kernel is of the other node
                    await b.get("eve")
                assert len(await registry.kernels()) == 3
            await b.get("eve")  # which evicts the idle kernel of this node
            assert {kernel.owner for kernel in await registry.kernels()} == {"ada", "bob", "eve"}
            assert b.counts["evicted"] == 1
            await a.release_all()
            await b.release_all()
            assert await registry.count() == 0


async def test_kernel_that_ends_with_its_pool_counts(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry, node(registry, "b", max_kernels=1) as b:
            async with node(registry, "a", max_kernels=1) as a:
                await a.get("ada", kept=False)
                with pytest.raises(PoolFull):
                    await b.get("bob")
            await b.get("bob")
            await b.release_all()


async def test_requests_wait_for_the_kernels_of_other_nodes(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "_RENEW_SECONDS", 0.05)
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            SQLiteRegistry(path) as registry,
            node(registry, "a", max_kernels=1) as a,
            node(registry, "b", max_kernels=1) as b,
            anyio.create_task_group() as tasks,
        ):
            await a.get("ada")
            tasks.start_soon(lambda: b.get("bob", wait=True))
            await anyio.wait_all_tasks_blocked()
            while not b.waiting:  # noqa: ASYNC110 (the pool has no events)
                await anyio.sleep(0.01)
            await a.release("ada")
            assert (await b.get("bob", wait=True)).state in ("idle", "busy")
            await b.release_all()


async def test_released_kernel_is_taken_over_on_request(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry, node(registry, "b") as b:
            async with node(registry, "a") as a:
                kernel = await a.get("ada")
                await kernel.execute("os.x = 7")
                (row,) = await registry.kernels()
                await b.take_over(row)  # it has a node
                assert b.kernels() == []
            (row,) = await registry.kernels()
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(b.take_over, row)
            assert [kernel.user for kernel in b.kernels()] == ["ada"]
            assert await ask(await b.get("ada"), "str(os.x)") == "7"
            (row,) = await registry.kernels()
            assert (row.node, row.held > 0) == ("b", True)
            await b.release_all()


async def test_nodes_race_for_a_kernel(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            SQLiteRegistry(path) as registry,
            node(registry, "b") as b,
            node(registry, "c") as c,
        ):
            async with node(registry, "a") as a:
                await (await a.get("ada")).execute("os.x = 7")
            (row,) = await registry.kernels()
            async with anyio.create_task_group() as tasks:
                for pool in (b, c):
                    tasks.start_soon(pool.take_over, row)
            (owner,) = [pool for pool in (b, c) if pool.kernels()]
            assert await ask(await owner.get("ada"), "str(os.x)") == "7"
            await owner.release_all()


@pytest.mark.parametrize("host", ["host", "local", "container"])
async def test_kernel_of_another_machine_is_left_alone(path: Path, host: str) -> None:
    """A node removes no kernel that it cannot reach, until no node had it for a long time."""
    place = {"folder": "/nowhere/host", "kernel": "k", "kernel_id": "k", "connection_file": "/none"}
    handle = KernelHandle(host=host, kernel_type="spec/scripted", kernel_id="k", place=place)
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry, node(registry, "b") as b:
            facts = {"owner": "ada", "name": "default", "kernel_type": "spec/scripted"}
            assert await registry.add("k", **facts, node="a", seconds=0) == 1
            for stored in (None, handle):
                if stored is not None:
                    assert await registry.set_handle("k", 1, stored)
                (row,) = await registry.kernels()
                await b.take_over(row)
                assert b.kernels() == []
                assert await registry.count() == 1
            with pytest.raises(PoolError, match="in the registry already"):
                await b.get("ada")
            await registry.claim("k", node="b", seconds=0)
            (row,) = await registry.kernels()
            await b.take_over(row)  # it has held the kernel itself, so it can judge
            assert await registry.count() == 0


async def test_node_without_the_registry_ends_no_kernel(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "_RENEW_SECONDS", 0.02)
    monkeypatch.setattr(sharing, "CLAIM_SECONDS", 1.1)
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            SQLiteRegistry(path) as registry,
            node(registry, "a", idle_timeout=0.5) as a,
        ):
            kernel = await a.get("ada")
            plan = a._executor._plan
            with monkeypatch.context() as broken:

                async def fail(*_, **__):
                    raise RegistryError("the registry is away")

                broken.setattr(registry, "_transaction", fail)
                while not plan.is_suspended:  # noqa: ASYNC110 (the pool has no events)
                    await anyio.sleep(0.01)
                assert await ask(kernel, "'on'") == "on"
                with pytest.raises(RegistryError):
                    await a.get("bob")
                await anyio.sleep(0.6)  # longer than idle_timeout
                assert len(a.kernels()) == 1
            while a.kernels():  # noqa: ASYNC110 (it is culled when the registry answers)
                await anyio.sleep(0.01)
            assert a.counts["culled"] == 1
