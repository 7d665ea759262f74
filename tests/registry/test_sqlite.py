from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from kernelproto.exceptions import RegistryError, WrongProcess
from kernelproto.interfaces import KernelHandle
from kernelproto.registry import RegisteredSession, Registry, SQLiteRegistry
from kernelproto.registry import sqlite as module

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
LONG = 1000.0
LAPSED = 0.0  # a claim of no seconds has lapsed at once

HANDLE = KernelHandle(host="local", kernel_type="spec/a", kernel_id="one", place={"pid": 7})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "kernels.sqlite"


@pytest.fixture
async def registry(path: Path) -> AsyncIterator[SQLiteRegistry]:
    async with SQLiteRegistry(path) as registry:
        yield registry


async def add(registry: Registry, kernel_id: str = "one", **changes: object) -> int | None:
    values = {
        "owner": "ada",
        "name": kernel_id,
        "kernel_type": "spec/a",
        "node": "here",
        "seconds": LONG,
    }
    return await registry.add(kernel_id, **values | changes)


async def test_kernel_comes_back(registry: SQLiteRegistry, path: Path) -> None:
    assert isinstance(registry, Registry)
    assert await add(registry) == 1
    assert await registry.set_handle("one", 1, HANDLE)
    assert await add(registry, "two", owner="bob") == 1
    async with SQLiteRegistry(path) as other:
        one, two = await other.kernels()
        assert [kernel.kernel_id for kernel in await other.kernels(owner="bob")] == ["two"]
        assert (one.kernel_id, one.owner, one.name) == ("one", "ada", "one")
        assert one.kernel_type == "spec/a"
        assert (one.handle, one.node, one.fence) == (HANDLE, "here", 1)
        assert 0 <= one.idle <= one.age
        assert 0 < one.held <= LONG
        assert two.handle is None


async def test_only_the_user_can_read_it(registry: SQLiteRegistry, path: Path) -> None:
    await add(registry)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


async def test_id_and_name_are_unique(registry: SQLiteRegistry) -> None:
    assert await add(registry) == 1
    assert await add(registry) is None
    assert await add(registry, "two", name="one") is None
    assert await add(registry, "two", name="one", owner="bob") == 1


async def test_one_node_holds_a_kernel(registry: SQLiteRegistry) -> None:
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


async def test_old_fence_changes_nothing(registry: SQLiteRegistry) -> None:
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


async def test_renew(registry: SQLiteRegistry) -> None:
    for kernel_id in ("one", "two", "three"):
        await add(registry, kernel_id, seconds=LAPSED)
    assert await registry.claim("three", node="there", seconds=LONG) == 2
    # A claim that has lapsed is renewed, unless another node has claimed the kernel.
    assert await registry.renew("here", seconds=LONG) == {"one": 1, "two": 1}
    assert await registry.claim("one", node="there", seconds=LONG) is None
    held = {kernel.kernel_id: kernel.held for kernel in await registry.kernels()}
    assert min(held.values()) > LONG - GUARD_SECONDS
    assert await registry.renew("nowhere", seconds=LONG) == {}


async def test_use(registry: SQLiteRegistry) -> None:
    await add(registry)
    await add(registry, "two", node="there")
    await registry.renew("here", seconds=LONG, idle={"one": -LONG, "two": -LONG, "none": 1.0})
    one, two = await registry.kernels()
    assert one.idle == 0  # used in the future of the store's clock
    await registry.renew("here", seconds=LONG, idle={"one": LONG})
    assert (await registry.kernels())[0].idle == 0  # an older use changes nothing
    assert two.idle >= 0


def session(session_id: str = "s", kernel_id: str = "one", **changes: str) -> RegisteredSession:
    values = {"owner": "ada", "path": "a.ipynb", "name": "a", "type": "notebook"} | changes
    return RegisteredSession(session_id=session_id, kernel_id=kernel_id, **values)


async def test_sessions(registry: SQLiteRegistry, path: Path) -> None:
    await add(registry)
    await add(registry, "two")
    await add(registry, "three", owner="bob")
    first, second = session("s"), session("t")  # with the same path, after a rename
    assert await registry.set_session(first)
    assert await registry.set_session(second)
    assert await registry.set_session(session("b", "three", owner="bob"))
    changed = session("s", "two", path="b.ipynb", name="", type="file")
    assert await registry.set_session(changed)
    async with SQLiteRegistry(path) as other:
        assert await other.sessions(owner="ada") == [changed, second]
        assert len(await other.sessions()) == 3
    assert await registry.remove_session("ada", "t")
    assert not await registry.remove_session("ada", "t")
    assert await registry.sessions(owner="ada") == [changed]


async def test_session_of_another_user(registry: SQLiteRegistry) -> None:
    await add(registry)
    await add(registry, "three", owner="bob")
    assert not await registry.set_session(session("s", "three"))
    assert not await registry.set_session(session("s", "none"))
    assert await registry.set_session(session("s"))
    assert not await registry.set_session(session("s", "three", owner="bob"))
    assert not await registry.remove_session("bob", "s")
    assert await registry.sessions() == [session("s")]


async def test_session_ends_with_its_kernel(registry: SQLiteRegistry, path: Path) -> None:
    await add(registry)
    await add(registry, "two")
    await registry.set_session(session("s"))
    await registry.set_session(session("t", "two"))
    async with SQLiteRegistry(path) as other:
        await other.remove("one", 1)
    assert await registry.sessions() == [session("t", "two")]


async def test_start_and_notes(registry: SQLiteRegistry) -> None:
    await add(registry, start='{"cwd": "/"}')
    await add(registry, "two", node="there")
    await registry.set_notes("here", {"one": "note", "two": "of another node", "none": "x"})
    one, two = await registry.kernels()
    assert (one.start, one.note) == ('{"cwd": "/"}', "note")
    assert (two.start, two.note) == ("", "")


async def test_restart(registry: SQLiteRegistry) -> None:
    await add(registry)
    await registry.set_handle("one", 1, HANDLE)
    assert not await registry.begin_restart("one", 2)
    assert await registry.begin_restart("one", 1)
    (kernel,) = await registry.kernels()
    assert (kernel.restarting, kernel.handle) == (True, HANDLE)
    await registry.set_handle("one", 1, HANDLE)
    assert not (await registry.kernels())[0].restarting


async def test_nodes(registry: SQLiteRegistry) -> None:
    assert await registry.nodes() == []
    for node in ("here", "there", "here"):
        await registry.renew(node, seconds=LONG)
    nodes = await registry.nodes()
    assert [node.name for node in nodes] == ["here", "there"]
    assert all(0 <= node.unseen < GUARD_SECONDS for node in nodes)


async def test_clock_that_is_set_back_an_hour(registry: SQLiteRegistry, path: Path) -> None:
    """To the store, everything until now happens an hour in the future."""
    await add(registry)
    await registry.renew("here", seconds=LONG, idle={"one": 0.0})
    with sqlite3.connect(path) as database:
        database.execute(
            "update kernel set added_at = added_at + 3600, used_at = used_at + 3600, "
            "held_until = held_until + 3600"
        )
    database.close()
    (kernel,) = await registry.kernels()
    assert (kernel.age, kernel.idle) == (0, 0)
    assert kernel.held > 3600
    # Other nodes wait longer; the node itself does not.
    assert await registry.claim("one", node="there", seconds=LONG) is None
    assert await registry.claim("one", node="here", seconds=LONG) == 2
    assert 0 < (await registry.kernels())[0].held <= LONG


async def test_cancelled_call_leaves_nothing_half_done(registry: SQLiteRegistry) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await add(registry)
    assert await registry.kernels() == []
    assert await add(registry) == 1


async def test_many_tasks(registry: SQLiteRegistry) -> None:
    fences: list[int | None] = []

    async def claim(node: str) -> None:
        fences.append(await registry.claim("one", node=node, seconds=LONG))

    await add(registry, seconds=LAPSED)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(claim, f"node {number}")
    assert sorted(fences, key=str) == [2, *[None] * 19]


async def test_registry_that_is_not_open(path: Path) -> None:
    async with SQLiteRegistry(path) as registry:
        pass
    with pytest.raises(RegistryError, match="not open"):
        await registry.kernels()


async def test_text_that_is_not_unicode(registry: SQLiteRegistry) -> None:
    with pytest.raises(RegistryError, match="valid Unicode"):
        await add(registry, owner="\udce9")


async def test_fork_does_not_use_the_connection(registry: SQLiteRegistry) -> None:
    child = os.fork()
    if child == 0:
        coroutine = registry.kernels()
        try:
            coroutine.send(None)
        except WrongProcess:
            os._exit(0)
        os._exit(1)
    assert (await anyio.to_thread.run_sync(os.waitpid, child, 0))[1] == 0


async def refused(path: Path, words: str) -> None:
    before, files = contents(path), os.listdir(path.parent)
    with pytest.raises(RegistryError, match=words) as caught:
        async with SQLiteRegistry(path, busy_seconds=0.01):
            pytest.fail("it was opened")
    assert str(path) in str(caught.value)
    assert (contents(path), os.listdir(path.parent)) == (before, files)


def contents(path: Path) -> bytes:
    return path.read_bytes()


async def test_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "kernels.sqlite"
    path.write_bytes(b"something else " * 1000)
    await refused(path, "it is damaged: move it away")


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"x" * (len(data) - 4096))


async def test_damaged_file(path: Path) -> None:
    async with SQLiteRegistry(path) as registry:
        for number in range(200):
            await add(registry, str(number))
    damage(path)
    await refused(path, "it is damaged: move it away")


async def test_newer_version(path: Path) -> None:
    async with SQLiteRegistry(path):
        pass
    with sqlite3.connect(path) as database:
        database.execute("pragma user_version = 99")
    database.close()
    await refused(path, r"newer version of kernelproto \(schema 99")


async def test_database_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("create table a (b)")
    database.close()
    await refused(path, "database of another program")


async def test_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="Is a directory"):
        async with SQLiteRegistry(tmp_path):
            pytest.fail("it was opened")


async def test_locked_file(registry: SQLiteRegistry, path: Path) -> None:
    async with SQLiteRegistry(path, busy_seconds=0.01) as other:
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("begin immediate")
        with pytest.raises(RegistryError, match=r"locked it for longer than 0\.01 s"):
            await add(other)
        assert await other.kernels() == []
        lock.execute("rollback")
        lock.close()
        assert await add(other) == 1


async def test_migration_that_fails_loses_nothing(path: Path, monkeypatch) -> None:
    async with SQLiteRegistry(path) as registry:
        await add(registry)
    with monkeypatch.context() as patch:
        wrong = (*module._MIGRATIONS, ("alter table kernel add column x text", "nonsense"))
        patch.setattr(module, "_MIGRATIONS", wrong)
        with pytest.raises(RegistryError, match="syntax error"):
            async with SQLiteRegistry(path):
                pytest.fail("it was opened")
    async with SQLiteRegistry(path) as registry:
        assert len(await registry.kernels()) == 1
    with monkeypatch.context() as patch:
        newer = (*module._MIGRATIONS, ("alter table kernel add column x text",))
        patch.setattr(module, "_MIGRATIONS", newer)
        async with SQLiteRegistry(path) as registry:
            assert len(await registry.kernels()) == 1


async def test_kernels_of_the_first_schema(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        for statement in module._MIGRATIONS[0]:
            database.execute(statement)
        database.execute(f"pragma application_id = {module._APPLICATION}")
        database.execute("pragma user_version = 1")
        database.execute(
            "insert into kernel values ('one', 'ada', 'one', 'a', null, 0, 0, 'here', 7, 0)"
        )
    database.close()
    async with SQLiteRegistry(path) as registry:
        (kernel,) = await registry.kernels()
        assert (kernel.kernel_id, kernel.fence, kernel.start, kernel.note) == ("one", 7, "", "")
        assert await registry.set_session(session())
        assert await add(registry, "two") == 1


WRITER = """
import itertools, os, sys
import anyio
from kernelproto.registry import SQLiteRegistry

async def main():
    async with SQLiteRegistry(sys.argv[1]) as registry:
        for number in itertools.count():
            kernel_id = f"{os.getpid()}-{number}"
            await registry.add(
                kernel_id, owner="ada", name=kernel_id, kernel_type="spec/a", node="here", seconds=9
            )
            print(kernel_id, flush=True)

anyio.run(main)
"""


async def test_writers_that_are_killed_lose_nothing(path: Path) -> None:
    written: set[str] = set()
    for round in range(6):
        command = [sys.executable, "-c", WRITER, str(path)]
        writers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
            for _ in range(2)
        ]
        for writer in writers:
            for _ in range(1 + 7 * round):
                written.add(writer.stdout.readline().strip())
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read()
            written |= set(rest.split("\n")[:-1])  # without a line that is incomplete
            writer.wait()
            writer.stdout.close()
    async with SQLiteRegistry(path) as registry:
        found = {kernel.kernel_id for kernel in await registry.kernels()}
    assert written <= found
    assert len(found - written) <= 12  # each writer was killed before its last line


# Writes until the largest size that a file may have is reached.
FILLER = """
import anyio, resource, sys
from kernelproto.exceptions import RegistryError
from kernelproto.registry import SQLiteRegistry

async def main():
    async with SQLiteRegistry(sys.argv[1]) as registry:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        for number in range(10_000):
            name = f"{number} {'x' * 1000}"
            try:
                await registry.add(
                    str(number), owner="ada", name=name, kernel_type="a", node="here", seconds=9
                )
            except RegistryError as error:
                print(error)
                break
        kernels = await registry.kernels()
        assert len(kernels) == number, (len(kernels), number)
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        assert await registry.remove("0", 1)
        print(number)

anyio.run(main)
"""


async def test_full_disk(path: Path) -> None:
    command = [sys.executable, "-c", FILLER, str(path)]
    done = subprocess.run(  # noqa: ASYNC221
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=GUARD_SECONDS
    )
    error, number = done.stdout.splitlines()
    assert f"the registry {str(path)!r} cannot be used: " in error
    assert "free" in error
    async with SQLiteRegistry(path) as registry:
        assert len(await registry.kernels()) == int(number) - 1
