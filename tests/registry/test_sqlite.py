from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernelproto.exceptions import RegistryError
from kernelproto.registry import SQLiteRegistry
from kernelproto.registry import sqlite as module
from tests.registry.values import GUARD_SECONDS, add, session

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "kernels.sqlite"


@pytest.fixture
async def registry(path: Path) -> AsyncIterator[SQLiteRegistry]:
    async with SQLiteRegistry(path) as registry:
        yield registry


async def test_only_the_user_can_read_it(registry: SQLiteRegistry, path: Path) -> None:
    await add(registry)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


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
