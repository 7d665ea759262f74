"""A pool whose kernels outlive it, and are found again by the next pool."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto import ClientClosed, DiscoveryError, KernelPool, PoolError, RegistryError
from kernelproto.host.launch import adopt_hosted
from kernelproto.interfaces import KernelHandle
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.local import local_handle
from kernelproto.launch.programs.watchdog import start_time
from kernelproto.pool import LeaseLimits, keeping
from kernelproto.pool.kept_kernel import RestoredKernel
from kernelproto.registry import SQLiteRegistry

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left", "clean")]

GUARD_SECONDS = 30

PROGRAM = """
import anyio, sys
from kernelproto import KernelPool
from kernelproto.registry import SQLiteRegistry

async def main():
    async with (
        SQLiteRegistry(sys.argv[1]) as registry,
        KernelPool(kernel_type="spec/scripted", registry=registry) as pool,
    ):
        kernel = await pool.get("ada")
        await kernel.execute("os.x = getattr(os, 'x', 0) + 1")
        result = await kernel.execute("say(f'{os.getpid()} {os.x}', parent)")
        print(result.stdout, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kernels.sqlite"


def pool_of(registry: SQLiteRegistry, **options) -> KernelPool:
    return KernelPool(**{"kernel_type": "spec/scripted", "registry": registry, **options})


async def ask(kernel, code: str) -> str:
    return (await kernel.execute(f"say({code}, parent)")).raise_for_error().stdout


LONG_CELL = "print(1)\nimport time\ntime.sleep(1000)"


async def execute_until_closed(kernel, code: str) -> None:
    with suppress(ClientClosed):
        await kernel.execute(code)


async def execute_for_ever(kernel) -> None:
    while True:
        await kernel.execute("pass")


async def test_next_pool_has_the_kernels_again(path: Path, runtime_dir: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry, max_per_user=2) as pool:
                kernel = await pool.get("ada", name="one")
                await kernel.execute("os.x = 42")
                pid, kernel_id = kernel.manager.pid, kernel.kernel_id
                await pool.get("bob")
                before = pool.kernels("ada")[0]
            with pytest.raises(ClientClosed):
                await kernel.execute("pass")
            assert {row.node for row in await registry.kernels()} == {""}
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry, max_per_user=2) as pool:
                assert pool.counts == {"restored": 2}
                kernel = await pool.get("ada", name="one")
                assert await ask(kernel, "str(os.x)") == "42"
                assert (kernel.manager.pid, kernel.kernel_id) == (pid, kernel_id)
                (after,) = pool.kernels("ada")
                assert (after.user, after.name) == (before.user, before.name)
                assert after.kernel_type == "spec/scripted"
                await kernel.restart()
                assert await ask(kernel, "str(os.getpid())") != str(pid)
            async with pool_of(registry) as pool:
                assert pool.counts == {"restored": 2}
                assert await pool.release("ada", name="one")
                assert await pool.release("bob")
            assert await registry.kernels() == []
    assert os.listdir(runtime_dir) == []


async def test_program_that_is_killed(path: Path, runtime_dir: Path) -> None:
    answers: list[list[str]] = []
    for _ in range(3):
        command = [sys.executable, "-c", PROGRAM, str(path)]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        with program:
            answers.append((await anyio.to_thread.run_sync(program.stdout.readline)).split())
            program.kill()
    assert [x for _, x in answers] == ["1", "2", "3"]
    assert len({pid for pid, _ in answers}) == 1
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            kernel = await pool.get("ada")
            assert await ask(kernel, "f'{os.getpid()} {os.x}'") == f"{answers[0][0]} 3"
            await pool.release("ada")
    assert os.listdir(runtime_dir) == []


async def test_idle_time_goes_on(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry) as pool:
                pid = (await pool.get("ada")).manager.pid
            with sqlite3.connect(path) as database:
                database.execute(
                    "update kernel set used_at = used_at - 1000, added_at = added_at - 1000"
                )
            database.close()
            async with pool_of(registry, idle_timeout=900) as pool:
                while pool.kernels():
                    await anyio.lowlevel.checkpoint()
                while await registry.kernels():
                    await anyio.lowlevel.checkpoint()
                assert pool.counts == {"restored": 1, "culled": 1}
    assert start_time(pid) == ""


PRINT_LATER = """
import pathlib, threading, time
def print_later():
    while not pathlib.Path({release!r}).exists():
        time.sleep(0.01)
    print("later", flush=True)
    pathlib.Path({done!r}).touch()
threading.Thread(target=print_later).start()
"""


async def test_output_while_no_pool_is_open_ends_the_idle_time(path: Path, tmp_path: Path) -> None:
    release, done = tmp_path / "release", tmp_path / "done"
    code = PRINT_LATER.format(release=str(release), done=str(done))
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry, kernel_type="fork/kernel") as pool:
                await (await pool.get("ada")).execute(code)
            release.touch()
            while not done.exists():
                await anyio.lowlevel.checkpoint()
            with sqlite3.connect(path) as database:
                database.execute("update kernel set used_at = used_at - 1000")
            database.close()
            async with pool_of(registry) as pool:
                (kernel,) = pool.kernels()
                while kernel.state == "starting":
                    await anyio.lowlevel.checkpoint()
                    (kernel,) = pool.kernels()
                assert datetime.now(UTC) - kernel.last_activity < timedelta(seconds=900)
                await pool.release_all()


async def test_kernel_works_while_no_pool_is_open(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with (
                anyio.create_task_group() as tasks,
                pool_of(registry, kernel_type="fork/kernel") as pool,
            ):
                kernel = await pool.get("ada")
                async with kernel.messages(msg_types=["stream"]) as messages:
                    tasks.start_soon(execute_until_closed, kernel, LONG_CELL)
                    await anext(messages)
            async with pool_of(registry, idle_timeout=0.001) as pool:
                kernel = await pool.get("ada")
                assert [each.state for each in pool.kernels()] == ["busy"]
                await kernel.interrupt()
                while (await kernel.execute("6 * 7")).text != "42":
                    pass  # ipykernel may abort requests after an interrupt
                await pool.release("ada")


async def test_kernel_that_ended_meanwhile(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry) as pool:
                kernel = await pool.get("ada")
                pid = kernel.manager.pid
            os.kill(pid, signal.SIGKILL)
            while start_time(pid):
                await anyio.lowlevel.checkpoint()
            async with pool_of(registry) as pool:
                assert pool.counts == {"lost": 1}
                assert pool.kernels() == []
                await pool.get("ada")
                await pool.release("ada")
            assert read_records() == []


async def test_kernel_that_ended_without_a_program_is_replaced(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            async with SQLiteRegistry(path) as second, pool_of(second) as other:
                pid = (await other.get("ada")).manager.pid
            with pytest.raises(PoolError, match="in the registry already"):
                await pool.get("ada")
            os.kill(pid, signal.SIGKILL)
            while start_time(pid):
                await anyio.lowlevel.checkpoint()
            await pool.get("ada")
            await pool.release("ada")
        for record in read_records():
            record.clear_up()


async def test_second_pool_disturbs_nothing(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            kernel = await pool.get("ada")
            for node in (None, "another"):
                async with SQLiteRegistry(path) as second, pool_of(second, node=node) as other:
                    assert other.kernels() == []
                    with pytest.raises(PoolError, match="in the registry already"):
                        await other.get("ada")
            assert [row.fence for row in await registry.kernels()] == [1]
            await kernel.execute("pass")
            await pool.release("ada")


async def test_program_that_is_killed_during_a_launch(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            facts = {"owner": "ada", "name": "default", "kernel_type": "a", "seconds": 1000}
            await registry.add("one", node="far", **facts)
            await registry.add("two", node=socket.gethostname(), **facts | {"owner": "bob"})
            async with pool_of(registry) as pool:
                await pool.get("bob")
                with pytest.raises(PoolError, match="in the registry already"):
                    await pool.get("ada")
                await pool.release("bob")
            assert [row.kernel_id for row in await registry.kernels()] == ["one"]


async def test_launch_that_was_interrupted_while_a_pool_is_open_is_replaced(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            await killed_at_handle(path, 1)
            kernel = await pool.get("ada")
            (row,) = await registry.kernels()
            assert row.kernel_id == kernel.kernel_id
            assert [record.listed_as for record in read_records()] == [kernel.kernel_id]
            await pool.release("ada")


# Its registry does not answer when the handle of the given number is stored.
INTERRUPTED = """
import anyio, sys
from kernelproto import KernelPool
from kernelproto.registry import SQLiteRegistry

class Slow(SQLiteRegistry):
    async def set_handle(self, kernel_id, fence, handle):
        self.left = getattr(self, "left", int(sys.argv[2])) - 1
        if self.left == 0:
            print(kernel_id, flush=True)
            await anyio.sleep_forever()
        return await super().set_handle(kernel_id, fence, handle)

async def main():
    async with (
        Slow(sys.argv[1]) as registry,
        KernelPool(kernel_type=sys.argv[3], registry=registry) as pool,
    ):
        kernel = await pool.get("ada")
        await kernel.restart()

anyio.run(main)
"""


async def killed_at_handle(path: Path, number: int, kernel_type: str = "spec/scripted") -> str:
    """Kill a program before it stores a handle; return the id of the kernel."""
    command = [sys.executable, "-c", INTERRUPTED, str(path), str(number), kernel_type]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    with program:
        kernel_id = (await anyio.to_thread.run_sync(program.stdout.readline)).strip()
        program.kill()
    return kernel_id


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_launch_that_was_interrupted_leaves_nothing(
    path: Path, runtime_dir: Path, is_recorded: bool
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel_id = await killed_at_handle(path, 1)
        (record,) = read_records()
        assert record.listed_as == kernel_id
        if not is_recorded:  # as if the program was killed just after the start of the process
            msgspec.structs.replace(record, process=None).write()
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            assert pool.kernels() == []
            assert pool.counts == {}
            assert await registry.kernels() == []
    assert start_time(record.process.pid) == ""
    assert os.listdir(runtime_dir) == []


@pytest.mark.parametrize("ends", [False, True])
async def test_launch_in_a_host_that_was_interrupted_leaves_nothing(
    path: Path, runtime_dir: Path, ends: bool
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel_id = await killed_at_handle(path, 1, "pyimport/kernel")
        (record,) = read_records()
        assert record.host is not None
        assert record.listed_as == kernel_id
        if ends:
            os.kill(record.process.pid, signal.SIGKILL)
            while start_time(record.process.pid):
                await anyio.lowlevel.checkpoint()
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            assert pool.kernels() == []
            assert pool.counts == {}
            assert await registry.kernels() == []
        assert start_time(record.process.pid) == ""
        with suppress(DiscoveryError):  # a host keeps a kernel that has ended for a while
            await adopt_hosted(local_handle(record))
        while os.listdir(runtime_dir):  # the host ends with its last kernel
            await anyio.lowlevel.checkpoint()


async def test_restart_in_a_host_that_was_interrupted_goes_on(
    path: Path, runtime_dir: Path
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel_id = await killed_at_handle(path, 2, "pyimport/kernel")
        (record,) = read_records()
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            assert pool.counts == {"restored": 1}
            kernel = await pool.get("ada")
            assert kernel.kernel_id == kernel_id
            assert kernel.manager.pid == record.process.pid
            await pool.release("ada")
        while os.listdir(runtime_dir):
            await anyio.lowlevel.checkpoint()


class KillingRegistry(SQLiteRegistry):
    """Kills the first process whose handle is stored, and goes on when there is another one."""

    has_killed = False

    async def set_handle(self, kernel_id: str, fence: int, handle: KernelHandle) -> bool:
        stored = await super().set_handle(kernel_id, fence, handle)
        if not self.has_killed:
            self.has_killed = True
            (record,) = read_records()
            assert record.process is not None
            os.kill(record.process.pid, signal.SIGKILL)
            while read_records() == [record]:  # noqa: ASYNC110 - no event tells of the restart
                await anyio.sleep(0.01)
        return stored


async def test_process_that_dies_while_its_handle_is_stored(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with KillingRegistry(path) as registry, pool_of(registry) as pool:
            kernel = await pool.get("ada")
            await kernel.execute("os.x = 42")
            (row,) = await registry.kernels()
            assert row.handle is not None
            assert row.handle.place == kernel.manager.handle().place
            await pool.release("ada")


async def test_restart_that_was_interrupted_goes_on(path: Path, runtime_dir: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel_id = await killed_at_handle(path, 2)
        (record,) = read_records()
        for _ in range(2):
            async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
                assert pool.counts == {"restored": 1}
                kernel = await pool.get("ada")
                assert kernel.kernel_id == kernel_id
                assert await ask(kernel, "str(os.getpid())") == str(record.process.pid)
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            await pool.release("ada")
    assert os.listdir(runtime_dir) == []


async def test_restart_without_a_new_process_is_done_again(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry) as pool:
                kernel = await pool.get("ada")
                kernel_id, pid = kernel.kernel_id, kernel.manager.pid
            (row,) = await registry.kernels()
            assert await registry.begin_restart(kernel_id, row.fence)
            os.kill(pid, signal.SIGKILL)
            while start_time(pid):
                await anyio.lowlevel.checkpoint()
            for _ in range(2):
                async with pool_of(registry) as pool:
                    assert pool.counts == {"restored": 1}
                    kernel = await pool.get("ada")
                    assert kernel.kernel_id == kernel_id
                    assert kernel.manager.pid != pid
                    await kernel.execute("pass")
            async with pool_of(registry) as pool:
                await pool.restart("ada")
                assert not (await registry.kernels())[0].restarting
                await pool.release("ada")


async def test_options_of_the_start_are_kept(path: Path) -> None:
    limits = LeaseLimits(max_per_user=7, idle_timeout=1234.0)
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry) as pool:
                await pool.get("ada", env={"FRUIT": "pear"}, cwd="/", lease_limits=limits)
            async with pool_of(registry, max_per_user=1) as pool:
                kernel = await pool.get("ada")
                assert pool.kernels()[0].end.limit == 1234.0
                await kernel.restart()
                assert await ask(kernel, "os.environ['FRUIT'] + os.getcwd()") == "pear/"
                with pytest.raises(PoolError, match="options that JSON has"):
                    await pool.get("bob", launch_params={"output": sys.stderr}, lease_limits=limits)
                await pool.release_all()
            assert await registry.kernels() == []


async def test_start_that_cannot_be_read(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry) as pool:
                await pool.get("ada")
            with sqlite3.connect(path) as database:
                database.execute("update kernel set start = 'nonsense'")
            database.close()
            async with pool_of(registry) as pool:
                assert pool.kernels() == []
            assert len(await registry.kernels()) == 1  # a later version may read it
            with sqlite3.connect(path) as database:
                database.execute("update kernel set start = ''")
            database.close()
            async with pool_of(registry) as pool:
                await pool.release("ada")


async def test_kernel_that_ends_with_the_pool(path: Path, runtime_dir: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry, max_per_user=2) as pool:
                await pool.get("ada", name="one", kept=False)
                assert await registry.kernels() == []
            assert os.listdir(runtime_dir) == []


async def test_notes(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "_NOTE_SECONDS", 0.001)
    restored: list[RestoredKernel] = []
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry) as pool:
                await pool.get("ada")
                pool.note("ada", lambda: "first")
                while (await registry.kernels())[0].note != "first":
                    pass
                pool.note("bob", lambda: pytest.fail("bob has no kernel"))
                pool.note("ada", lambda: "last")
            assert [row.note for row in await registry.kernels()] == ["last"]
            async with pool_of(registry) as pool:
                kernel = await pool.get("ada")
                pool.watch_restored(restored.append)
                await pool.release("ada")
    ((user, name, found, note, messages, missing),) = restored
    assert (user, name, found, note, missing) == ("ada", "default", kernel, "last", 0)
    assert {message.msg_type for message, _, _ in messages} >= {"status"}


async def test_notes_are_stored_when_the_registry_answers_again(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "_RENEW_SECONDS", 0.01)
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            await pool.get("ada")
            failed = anyio.Event()

            async def fail(*_: object) -> None:
                failed.set()
                raise RegistryError("no space is left on the disk")

            with monkeypatch.context() as broken:
                broken.setattr(registry, "set_notes", fail)
                pool.note("ada", lambda: "kept")
                await failed.wait()
            while (await registry.kernels())[0].note != "kept":  # noqa: ASYNC110 (no event tells)
                await anyio.sleep(0.01)
            await pool.release_all()


async def test_kernel_that_another_node_claims(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "CLAIM_SECONDS", 0.0)
    monkeypatch.setattr(keeping, "_RENEW_SECONDS", 0.01)
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry:
            async with pool_of(registry) as pool:
                kernel = await pool.get("ada")
                manager = kernel.manager
                fence = await registry.claim(kernel.kernel_id, node="far", seconds=1000)
                with pytest.raises(ClientClosed, match="belongs to another program now"):
                    await execute_for_ever(kernel)
                assert pool.kernels() == []
            assert start_time(manager.pid)
            (row,) = await registry.kernels()
            assert (row.node, row.fence) == ("far", fence)
    (record,) = read_records()
    record.clear_up()
    await anyio.to_thread.run_sync(os.waitpid, manager.pid, 0)


class Failing(SQLiteRegistry):
    """A registry that fails to renew."""

    failures = 0

    async def renew(self, *arguments: object, **options: object):
        self.failures += 1
        raise RegistryError("no space is left on the disk")


async def test_registry_that_fails(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "_RENEW_SECONDS", 0.01)
    with anyio.fail_after(GUARD_SECONDS):
        async with Failing(path) as registry, pool_of(registry) as pool:
            kernel = await pool.get("ada")
            while registry.failures < 3:
                await kernel.execute("pass")
            await pool.release("ada")
        assert pool.counts["released"] == 1
    with pytest.raises(RegistryError, match="not open"):
        async with pool_of(registry):
            pytest.fail("it was opened")


class Forgetful(SQLiteRegistry):
    """A registry that fails to remove the first kernel."""

    fails = True

    async def remove(self, kernel_id: str, fence: int) -> bool:
        if self.fails:
            self.fails = False
            raise RegistryError("no space is left on the disk")
        return await super().remove(kernel_id, fence)


async def test_end_is_stored_when_the_registry_answers_again(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with Forgetful(path) as registry, pool_of(registry) as pool:
            await pool.get("ada")
            await pool.release("ada")
            assert len(await registry.kernels()) == 1
            await pool.get("ada")
            await pool.release("ada")
            assert await registry.kernels() == []


async def test_ends_are_stored_with_the_renewals(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "_RENEW_SECONDS", 0.01)
    with anyio.fail_after(GUARD_SECONDS):
        async with Forgetful(path) as registry, pool_of(registry) as pool:
            await pool.get("ada")
            await pool.release("ada")
            while await registry.kernels():
                await anyio.lowlevel.checkpoint()


class Unclaimable(SQLiteRegistry):
    """A registry that fails to claim kernels."""

    async def claim(self, *arguments: object, **options: object) -> int | None:
        raise RegistryError("no space is left on the disk")


async def test_pool_that_cannot_be_opened_lets_go_of_its_kernels(path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            await pool.get("ada")
        async with Unclaimable(path) as registry:
            with pytest.raises(RegistryError):
                async with pool_of(registry):
                    pytest.fail("it was opened")
        async with SQLiteRegistry(path) as registry, pool_of(registry) as pool:
            assert pool.counts == {"restored": 1}
            await pool.release("ada")


def test_warm_kernels_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="warm kernels"):
        pool_of(SQLiteRegistry(path), warm=1)
