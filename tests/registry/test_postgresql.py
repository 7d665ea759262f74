"""The tests of PostgreSQLRegistry that other registries have no part in."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator

import anyio
import anyio.to_thread
import psycopg
import pytest

from kernelproto.exceptions import RegistryError
from kernelproto.registry import postgresql as module
from kernelproto.registry.postgresql import PostgreSQLRegistry
from tests.registry.conftest import PostgresStore
from tests.registry.postgres import Postgres
from tests.registry.values import GUARD_SECONDS, HANDLE, LAPSED, LONG, add, session

pytestmark = [pytest.mark.anyio]

SHORT = 1.0  # a time limit of calls that are meant to exceed it


@pytest.fixture
def store(postgres: Postgres, no_leaks: None) -> PostgresStore:
    return PostgresStore(postgres)


@pytest.fixture
def suspendable(postgres: Postgres) -> Iterator[Postgres]:
    """Give the server to a test that suspends it."""
    yield postgres
    postgres.resume()


async def refused(registry: PostgreSQLRegistry, words: str) -> str:
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(RegistryError, match=words) as caught:
        async with registry:
            pytest.fail("it was opened")
    return str(caught.value)


RACER = """
import sys
import anyio
from kernelproto.registry.postgresql import PostgreSQLRegistry

async def main(url, schema, node, rounds):
    async with PostgreSQLRegistry(url, schema=schema) as registry:
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(int(rounds)):
            fence = await registry.claim(f"kernel {number}", node=node, seconds=1000)
            print(-1 if fence is None else fence, flush=True)

anyio.run(main, *sys.argv[1:])
"""


async def test_processes_that_race_for_claims(store: PostgresStore) -> None:
    rounds = 1000
    async with store.registry():
        pass
    store.execute(
        "insert into kernel (id, owner, name, kernel_type, added_at, used_at, node, fence, "
        "held_until, start) select 'kernel ' || n, 'ada', n, 'a', 0, 0, 'gone', 1, 0, '' "
        f"from generate_series(0, {rounds - 1}) as n"
    )
    racers = [
        subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", RACER, store.url, store.schema, node, str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in ("one", "two")
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    fences = [
        list(map(int, (await anyio.to_thread.run_sync(racer.communicate))[0].split()))
        for racer in racers
    ]
    assert [racer.returncode for racer in racers] == [0, 0]
    # One of both has each kernel, with the fence behind that of the node that is gone.
    assert [sorted(pair) for pair in zip(*fences, strict=True)] == [[-1, 2]] * rounds


async def test_suspended_server(store: PostgresStore, suspendable: Postgres) -> None:
    async with store.registry(call_seconds=SHORT) as registry, store.registry() as other:
        await add(registry, seconds=LAPSED)
        suspendable.suspend()
        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):  # they do not wait one after the other
                    tasks.start_soon(unanswered, registry)
            await unanswered(registry)  # it cannot connect either
        suspendable.resume()
        # The claims that had no answer were not made, also not later.
        assert await other.claim("one", node="there", seconds=LONG) == 2
        with anyio.fail_after(GUARD_SECONDS):
            assert await registry.claim("one", node="here", seconds=LONG) is None


async def unanswered(registry: PostgreSQLRegistry) -> None:
    with pytest.raises(RegistryError, match=r"did not answer within 1 s|cannot be used"):
        await registry.claim("one", node="here", seconds=LONG)


async def test_stopped_server(postgres: Postgres) -> None:  # `no_leaks` would miss the old one
    store = PostgresStore(postgres)
    async with store.registry() as registry:
        await add(registry)
        postgres.stop()
        with pytest.raises(RegistryError, match=r"check the server and the network"):
            await registry.kernels()
        await refused(store.registry(), "check the server and the network")
        postgres.start()
        assert (await registry.renew("here", seconds=LONG)) == {"one": 1}
        postgres.restart()
        # The connection was idle meanwhile, and is replaced before the claim is sent.
        assert await registry.claim("one", node="there", seconds=LONG) is None


async def test_connection_that_the_server_ends(store: PostgresStore) -> None:
    async with store.registry() as registry:
        for number in range(5):
            assert await add(registry, str(number)) == 1
            store.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
                "where application_name = 'kernelproto'"
            )
        assert len(await registry.kernels()) == 5


async def test_clock_of_the_client_is_wrong(store: PostgresStore, monkeypatch) -> None:
    async with store.registry() as registry, store.registry() as other:
        for wrong in (0.0, time.time() + 86400):
            monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
            kernel_id = str(wrong)
            assert await add(registry, kernel_id) == 1
            (kernel,) = [row for row in await other.kernels() if row.kernel_id == kernel_id]
            assert LONG - GUARD_SECONDS < kernel.held <= LONG
            assert 0 <= kernel.idle <= kernel.age < GUARD_SECONDS
            assert await other.claim(kernel_id, node="there", seconds=LONG) is None


async def test_claim_that_waits_for_another_claim(store: PostgresStore) -> None:
    async with store.registry() as registry:
        await add(registry, seconds=LAPSED)
        with psycopg.connect(store.url) as lock:
            lock.execute(f'set search_path = "{store.schema}"')
            lock.execute(
                "update kernel set node = 'there', fence = 2, "
                "held_until = extract(epoch from clock_timestamp()) + 1000"
            )
            async with anyio.create_task_group() as tasks:

                async def claim() -> None:
                    assert await registry.claim("one", node="here", seconds=LONG) is None

                tasks.start_soon(claim)
                await anyio.to_thread.run_sync(wait_for_lock, store)
                lock.commit()


def wait_for_lock(store: PostgresStore) -> None:
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    while store.execute(waiting) == [(0,)]:
        time.sleep(0.01)


async def test_lock_that_is_held_for_long(store: PostgresStore, monkeypatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.05)
    async with store.registry() as registry:
        await add(registry)
        with psycopg.connect(store.url) as lock:
            lock.execute(f'set search_path = "{store.schema}"')
            lock.execute("update kernel set note = 'locked'")
            with pytest.raises(RegistryError, match="lock timeout"):
                await registry.set_handle("one", 1, HANDLE)
        assert await registry.set_handle("one", 1, HANDLE)


async def test_deadlocks_and_serialization(store: PostgresStore) -> None:
    """Several programs of two nodes change the same rows in different orders."""
    options = "&options=-c%20default_transaction_isolation%3Dserializable"
    chance = random.Random(1)
    async with store.registry() as registry:
        for number in range(20):
            await add(registry, str(number), node=f"node {number % 2}")

        async def work(node: str) -> None:
            other = PostgreSQLRegistry(store.url + options, schema=store.schema)
            async with other:
                for number in range(20):
                    if number % 2:
                        notes = [str(number) for number in range(20)]
                        chance.shuffle(notes)
                        await other.set_notes(node, dict.fromkeys(notes, "note"))
                    held = await other.renew(
                        node, seconds=LONG, idle={str(number): 0.0 for number in range(20)}
                    )
                    assert len(held) == 10

        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(work, f"node {number % 2}")
        assert {kernel.fence for kernel in await registry.kernels()} == {1}


async def test_transaction_that_a_deadlock_ends_is_repeated(store: PostgresStore) -> None:
    async with store.registry() as registry:
        await add(registry, "a")
        await add(registry, "b")
        with psycopg.connect(store.url) as lock:
            lock.execute(f'set search_path = "{store.schema}"')
            # The deadlock ends the transaction whose check comes first: that of the registry.
            lock.execute("set deadlock_timeout = '1min'")
            lock.execute("update kernel set note = 'locked' where id = 'b'")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(registry.set_notes, "here", {"a": "note", "b": "note"})
                await anyio.to_thread.run_sync(wait_for_lock, store)
                await anyio.to_thread.run_sync(
                    lock.execute, "update kernel set note = 'locked' where id = 'a'"
                )
                lock.commit()
        assert {kernel.note for kernel in await registry.kernels()} == {"note"}


async def test_one_program_at_a_time(store: PostgresStore, monkeypatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.05)
    async with store.registry(exclusive=True) as registry:
        await refused(store.registry(exclusive=True), "another program uses the registry on")
        store.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where application_name = 'kernelproto'"
        )
        assert await registry.kernels() == []  # it has the lock again
        await refused(store.registry(exclusive=True), "another program uses the registry on")
        async with store.registry() as reader:
            assert await reader.kernels() == []
    async with store.registry(exclusive=True):
        pass


async def test_nodes_share_the_schema(store: PostgresStore, monkeypatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.05)
    async with store.registry(node="http://a"), store.registry(node="http://b"):
        await refused(store.registry(node="http://a"), "another program has the name http://a in")
        await refused(store.registry(exclusive=True), "another program uses the registry on")
    async with store.registry(exclusive=True):
        words = "a program that does not share the registry on"
        await refused(store.registry(node="http://a"), words)
    async with store.registry(node="http://a"):
        pass


async def test_programs_that_make_the_tables_at_once(store: PostgresStore) -> None:
    async def make() -> None:
        async with store.registry() as registry:
            assert await registry.kernels() == []

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(make)


async def test_newer_version(store: PostgresStore) -> None:
    async with store.registry():
        pass
    store.execute("update version set number = 99")
    await refused(store.registry(), r"newer version of kernelproto \(schema 99")
    assert store.execute("select number from version") == [(99,)]


async def test_tables_of_another_program(store: PostgresStore) -> None:
    store.execute(f'create schema "{store.schema}"; create table kernel (a text)')
    await refused(store.registry(), "tables of another program: choose another schema")
    assert store.execute("select * from kernel") == []


async def test_migration_that_fails_changes_nothing(store: PostgresStore, monkeypatch) -> None:
    async with store.registry() as registry:
        await add(registry)
    with monkeypatch.context() as patch:
        wrong = (*module._MIGRATIONS, ("alter table kernel add column x text", "nonsense"))
        patch.setattr(module, "_MIGRATIONS", wrong)
        await refused(store.registry(), "syntax error")
    with monkeypatch.context() as patch:
        newer = (*module._MIGRATIONS, ("alter table kernel add column x text",))
        patch.setattr(module, "_MIGRATIONS", newer)
        async with store.registry() as registry:
            assert len(await registry.kernels()) == 1
            assert await registry.set_session(session())


async def test_user_without_rights(store: PostgresStore) -> None:
    store.execute("drop role if exists guest; create role guest login")
    url = store.url.replace("kernelproto@", "guest@")
    registry = PostgreSQLRegistry(url, schema=store.schema)
    await refused(registry, "permission denied .* give the user the rights")


async def test_text_with_a_null_character(store: PostgresStore) -> None:
    async with store.registry() as registry:
        with pytest.raises(RegistryError, match="NUL"):
            await add(registry, owner="a\0")
        assert await add(registry) == 1


async def test_errors_do_not_show_the_password() -> None:
    url = "postgresql://ada:secret@127.0.0.1:1/kernels"
    text = await refused(PostgreSQLRegistry(url), "registry on 127.0.0.1 .database 'kernels'")
    assert "secret" not in text
    with pytest.raises(ValueError, match="URL of the registry is not valid") as caught:
        PostgreSQLRegistry("postgresql://ada:secret@[x/kernels")
    assert "secret" not in f"{caught.value!r} {caught.value.__cause__!r}"
