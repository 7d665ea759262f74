"""The contract of a registry; every implementation must pass these tests."""

from __future__ import annotations

import os

import anyio
import anyio.to_thread
import pytest

from kernelproto.exceptions import PoolFull, QuotaExceeded, RegistryError, WrongProcess
from kernelproto.registry import Registry
from tests.registry.conftest import Store
from tests.registry.values import GUARD_SECONDS, HANDLE, LAPSED, LONG, add, session

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def test_kernel_comes_back(registry: Registry, store: Store) -> None:
    assert isinstance(registry, Registry)
    assert await add(registry) == 1
    assert await registry.set_handle("one", 1, HANDLE)
    assert await add(registry, "two", owner="bob") == 1
    async with store.registry() as other:
        one, two = await other.kernels()
        assert [kernel.kernel_id for kernel in await other.kernels(owner="bob")] == ["two"]
        assert (one.kernel_id, one.owner, one.name) == ("one", "ada", "one")
        assert one.kernel_type == "spec/a"
        assert (one.handle, one.node, one.fence) == (HANDLE, "here", 1)
        assert 0 <= one.idle <= one.age
        assert 0 < one.held <= LONG
        assert two.handle is None


async def test_id_and_name_are_unique(registry: Registry) -> None:
    assert await add(registry) == 1
    assert await add(registry) is None
    assert await add(registry, "two", name="one") is None
    assert await add(registry, "two", name="one", owner="bob") == 1


async def test_limits(registry: Registry, store: Store) -> None:
    limits = {"max_kernels": 3, "max_per_owner": 2}
    assert await add(registry, "one", **limits) == 1
    assert await add(registry, "one", **limits) is None
    assert await add(registry, "two", **limits) == 1
    with pytest.raises(QuotaExceeded, match="'ada' already has 2 of 2 kernels") as quota:
        await add(registry, "three", **limits)
    assert quota.value.limit == 2
    assert await add(registry, "one", **limits) is None
    assert await add(registry, "four", owner="bob", **limits) == 1
    with pytest.raises(PoolFull, match="3 of 3 kernels") as full:
        await add(registry, "five", owner="bob", **limits)
    assert full.value.limit == 3
    assert await registry.remove("one", 1)
    assert await add(registry, "five", owner="bob", **limits) == 1
    assert len(await registry.kernels()) == 3


async def test_nodes_that_add_at_once_do_not_exceed_the_limits(
    registry: Registry, store: Store
) -> None:
    refused: list[str] = []

    async def fill(node: int) -> None:
        async with store.registry() as own:
            for number in range(8):
                owner = f"user {number % 4}"
                try:
                    await add(own, f"{node}-{number}", owner=owner, max_kernels=7, max_per_owner=2)
                except (PoolFull, QuotaExceeded):
                    refused.append(owner)

    async with anyio.create_task_group() as tasks:
        for node in range(4):
            tasks.start_soon(fill, node)
    owners = [kernel.owner for kernel in await registry.kernels()]
    assert len(owners) == 7
    assert max(map(owners.count, owners)) == 2
    assert len(refused) == 4 * 8 - 7


async def test_one_kernel_by_its_id(registry: Registry) -> None:
    await add(registry, "one")
    await add(registry, "two", owner="bob")
    assert [kernel.owner for kernel in await registry.kernels(kernel_id="two")] == ["bob"]
    assert await registry.kernels(owner="ada", kernel_id="two") == []
    assert await registry.kernels(kernel_id="three") == []


async def test_kernels_that_no_node_holds_are_removed(registry: Registry, store: Store) -> None:
    for kernel_id in ("held", "released", "lapsed"):
        await add(registry, kernel_id)
    await registry.set_session(session(kernel_id="lapsed"))
    assert await registry.release("released", 1)
    assert await registry.remove_unheld(seconds=LONG) == []
    store.execute("update kernel set held_until = held_until - 3000, used_at = used_at - 3000")
    store.execute("update kernel set held_until = held_until + 3000 where id = 'held'")
    unheld = {kernel.kernel_id for kernel in await registry.kernels(unheld=True)}
    assert unheld == {"released", "lapsed"}
    assert await registry.count() == 3
    assert set(await registry.remove_unheld(seconds=LONG)) == {"released", "lapsed"}
    assert [kernel.kernel_id for kernel in await registry.kernels()] == ["held"]
    assert await registry.sessions() == []


async def test_secret(registry: Registry, store: Store) -> None:
    secret = await registry.secret()
    assert len(secret) >= 32
    async with store.registry() as other:
        assert await other.secret() == secret


async def test_one_node_holds_a_kernel(registry: Registry) -> None:
    await add(registry)
    assert await registry.claim("one", node="there", seconds=LONG) is None
    assert await registry.claim("none", node="there", seconds=LONG) is None
    # A program that was started again has its own kernels at once.
    assert await registry.claim("one", node="here", seconds=LAPSED) == 2
    assert await registry.claim("one", node="there", seconds=LONG) == 3
    assert await registry.claim("one", node="here", seconds=LONG) is None
    assert await registry.release("one", 3)
    (kernel,) = await registry.kernels()
    assert (kernel.node, kernel.held) == ("", 0)
    assert await registry.claim("one", node="here", seconds=LONG) == 4


async def test_old_fence_changes_nothing(registry: Registry) -> None:
    await add(registry, seconds=LAPSED)
    assert await registry.claim("one", node="there", seconds=LONG) == 2
    before = await registry.kernels()
    assert not await registry.set_handle("one", 1, HANDLE)
    assert not await registry.release("one", 1)
    assert not await registry.remove("one", 1)
    (kernel,) = await registry.kernels()
    assert (kernel.node, kernel.fence, kernel.handle) == ("there", 2, before[0].handle)
    assert await registry.remove("one", 2)
    assert await registry.kernels() == []


async def test_renew(registry: Registry) -> None:
    for kernel_id in ("one", "two", "three"):
        await add(registry, kernel_id, seconds=LAPSED)
    assert await registry.claim("three", node="there", seconds=LONG) == 2
    # A claim that has lapsed is renewed, unless another node has claimed the kernel.
    assert await registry.renew("here", seconds=LONG) == {"one": 1, "two": 1}
    assert await registry.claim("one", node="there", seconds=LONG) is None
    held = {kernel.kernel_id: kernel.held for kernel in await registry.kernels()}
    assert min(held.values()) > LONG - GUARD_SECONDS
    assert await registry.renew("nowhere", seconds=LONG) == {}


async def test_use(registry: Registry) -> None:
    await add(registry)
    await add(registry, "two", node="there")
    await registry.renew("here", seconds=LONG, idle={"one": -LONG, "two": -LONG, "none": 1.0})
    one, two = await registry.kernels()
    assert one.idle == 0  # used in the future of the store's clock
    await registry.renew("here", seconds=LONG, idle={"one": LONG})
    assert (await registry.kernels())[0].idle == 0  # an older use changes nothing
    assert two.idle >= 0


async def test_sessions(registry: Registry, store: Store) -> None:
    await add(registry)
    await add(registry, "two")
    await add(registry, "three", owner="bob")
    first, second = session("s"), session("t")  # with the same path, after a rename
    assert await registry.set_session(first)
    assert await registry.set_session(second)
    assert await registry.set_session(session("b", "three", owner="bob"))
    changed = session("s", "two", path="b.ipynb", name="", type="file")
    assert await registry.set_session(changed)
    async with store.registry() as other:
        assert await other.sessions(owner="ada") == [changed, second]
        assert len(await other.sessions()) == 3
    assert await registry.remove_session("ada", "t")
    assert not await registry.remove_session("ada", "t")
    assert await registry.sessions(owner="ada") == [changed]


async def test_session_of_another_user(registry: Registry) -> None:
    await add(registry)
    await add(registry, "three", owner="bob")
    assert not await registry.set_session(session("s", "three"))
    assert not await registry.set_session(session("s", "none"))
    assert await registry.set_session(session("s"))
    assert not await registry.set_session(session("s", "three", owner="bob"))
    assert not await registry.remove_session("bob", "s")
    assert await registry.sessions() == [session("s")]


async def test_session_ends_with_its_kernel(registry: Registry, store: Store) -> None:
    await add(registry)
    await add(registry, "two")
    await registry.set_session(session("s"))
    await registry.set_session(session("t", "two"))
    async with store.registry() as other:
        await other.remove("one", 1)
    assert await registry.sessions() == [session("t", "two")]


async def test_start_and_notes(registry: Registry) -> None:
    await add(registry, start='{"cwd": "/"}')
    await add(registry, "two", node="there")
    await registry.set_notes("here", {"one": "note", "two": "of another node", "none": "x"})
    one, two = await registry.kernels()
    assert (one.start, one.note) == ('{"cwd": "/"}', "note")
    assert (two.start, two.note) == ("", "")


async def test_restart(registry: Registry) -> None:
    await add(registry)
    await registry.set_handle("one", 1, HANDLE)
    assert not await registry.begin_restart("one", 2)
    assert await registry.begin_restart("one", 1)
    (kernel,) = await registry.kernels()
    assert (kernel.restarting, kernel.handle) == (True, HANDLE)
    await registry.set_handle("one", 1, HANDLE)
    assert not (await registry.kernels())[0].restarting


async def test_nodes(registry: Registry) -> None:
    assert await registry.nodes() == []
    for node in ("here", "there", "here"):
        await registry.renew(node, seconds=LONG)
    nodes = await registry.nodes()
    assert [node.name for node in nodes] == ["here", "there"]
    assert all(0 <= node.unseen < GUARD_SECONDS for node in nodes)


async def test_clock_that_is_set_back_an_hour(registry: Registry, store: Store) -> None:
    """To the store, everything until now happens an hour in the future."""
    await add(registry)
    await registry.renew("here", seconds=LONG, idle={"one": 0.0})
    store.execute(
        "update kernel set added_at = added_at + 3600, used_at = used_at + 3600, "
        "held_until = held_until + 3600"
    )
    (kernel,) = await registry.kernels()
    assert (kernel.age, kernel.idle) == (0, 0)
    assert kernel.held > 3600
    # Other nodes wait longer; the node itself does not.
    assert await registry.claim("one", node="there", seconds=LONG) is None
    assert await registry.claim("one", node="here", seconds=LONG) == 2
    assert 0 < (await registry.kernels())[0].held <= LONG


async def test_cancelled_call_leaves_nothing_half_done(registry: Registry) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await add(registry)
    assert await registry.kernels() == []
    assert await add(registry) == 1


async def test_many_tasks(registry: Registry) -> None:
    fences: list[int | None] = []

    async def claim(node: str) -> None:
        fences.append(await registry.claim("one", node=node, seconds=LONG))

    await add(registry, seconds=LAPSED)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(claim, f"node {number}")
    assert sorted(fences, key=str) == [2, *[None] * 19]


async def test_registry_that_is_not_open(store: Store) -> None:
    async with store.registry() as registry:
        pass
    with pytest.raises(RegistryError, match="not open"):
        await registry.kernels()


async def test_text_that_is_not_unicode(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="valid Unicode"):
        await add(registry, owner="\udce9")


async def test_fork_does_not_use_the_connection(registry: Registry) -> None:
    child = os.fork()
    if child == 0:
        coroutine = registry.kernels()
        try:
            coroutine.send(None)
        except WrongProcess:
            os._exit(0)
        os._exit(1)
    assert (await anyio.to_thread.run_sync(os.waitpid, child, 0))[1] == 0
