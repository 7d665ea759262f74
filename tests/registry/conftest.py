"""The stores of the registries that are tested."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pytest

from kernelproto.registry import Registry, SQLiteRegistry
from tests.registry.postgres import NoPostgres, Postgres

_numbers = itertools.count()


class Store(Protocol):
    """The tables of one test."""

    def registry(self) -> SQLiteRegistry:
        """Return a registry that is not open yet."""
        ...

    def execute(self, statement: str) -> None:
        """Perform a statement without the registry."""
        ...


class SQLiteStore:
    def __init__(self, path: Path) -> None:
        self.path = path

    def registry(self) -> SQLiteRegistry:
        return SQLiteRegistry(self.path)

    def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute(statement)


class PostgresStore:
    """A schema in the database of all tests."""

    def __init__(self, postgres: Postgres) -> None:
        self.url = postgres.url
        self.schema = f"test {next(_numbers)}"
        self._postgres = postgres

    def registry(self, **options):
        from kernelproto.registry.postgresql import PostgreSQLRegistry

        return PostgreSQLRegistry(self.url, schema=self.schema, **options)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        return self._postgres.execute(f'set search_path = "{self.schema}"; {statement}')


@pytest.fixture(scope="session")
def postgres_or_reason() -> Iterator[Postgres | str]:
    """Give a PostgreSQL of these tests' own, or the reason why there is none."""
    try:
        postgres = Postgres()
    except NoPostgres as error:
        yield str(error)
    else:
        yield postgres
        postgres.close()


@pytest.fixture
def postgres(postgres_or_reason: Postgres | str) -> Postgres:
    if isinstance(postgres_or_reason, str):
        pytest.skip(postgres_or_reason)
    return postgres_or_reason


# The server is a parameter although some tests do not need it: it has to run before `no_leaks`.
@pytest.fixture(params=["sqlite", "postgresql"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_or_reason: Postgres | str
) -> Store:
    if request.param == "sqlite":
        return SQLiteStore(tmp_path / "kernels.sqlite")
    return PostgresStore(request.getfixturevalue("postgres"))


@pytest.fixture
async def registry(store: Store) -> AsyncIterator[Registry]:
    async with store.registry() as registry:
        yield registry
