"""SQLiteRegistry: a registry in a file, for the programs of one machine.

Theory of operation
-------------------
One thread at a time uses the connection, so the event loop never waits for the disk. Each method is
one transaction: a program that is killed leaves all of it or nothing. Other programs may write to
the same file; a method waits some seconds for them.

The file has the number of its schema (user_version) and of its format (application_id). An older
schema is brought up to date in one transaction. A file of a newer schema, of another program or
with errors is refused and left as it is.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec
from anyio import AsyncContextManagerMixin
from jupyter_core.paths import jupyter_data_dir

from kernelproto.concurrency.process_owner import Owner
from kernelproto.exceptions import RegistryError
from kernelproto.registry.statements import SQLITE
from kernelproto.registry.store import Cursor, SQLRegistry, value_fault

T = TypeVar("T")


_FILE = "kernels.sqlite"
_APPLICATION = 0x4B50524F  # "KPRO"

# Seconds to wait for another program that writes.
_BUSY_SECONDS = 5.0
_RETRY_SECONDS = 0.01

# A transaction that may write waits for others at its beginning, and cannot fail later for them.
_BEGIN = "begin immediate"

# The statements that lead from each schema to the next one. Never change one that was released.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        create table kernel (
            id text primary key,
            owner text not null,
            name text not null,
            kernel_type text not null,
            handle text,
            added_at real not null,
            used_at real not null,
            node text not null,
            fence integer not null,
            held_until real not null,
            unique (owner, name)
        ) strict
        """,
        "create index kernel_of_node on kernel (node)",
    ),
    (
        "alter table kernel add column start text not null default ''",
        "alter table kernel add column note text not null default ''",
        "alter table kernel add column restarting integer not null default 0",
        "create table node (name text primary key, seen_at real not null) strict",
        """
        create table session (
            id text primary key,
            owner text not null,
            path text not null,
            name text not null,
            type text not null,
            kernel_id text not null references kernel (id) on delete cascade
        ) strict
        """,
        "create index session_of_kernel on session (kernel_id)",
    ),
    ("create table secret (name text primary key, value text not null) strict",),
)

_RIGHTS = "correct the rights of the file and its folder"
_REASONS = {
    sqlite3.SQLITE_BUSY: "another program has locked it for longer than {seconds:g} s: try again",
    sqlite3.SQLITE_FULL: "no space is left on the disk: free some, and try again",
    sqlite3.SQLITE_IOERR: "the disk refuses to read or write it: free space, or repair the disk",
    sqlite3.SQLITE_READONLY: f"it is read-only: {_RIGHTS}",
    sqlite3.SQLITE_CANTOPEN: f"it cannot be opened: {_RIGHTS}",
    sqlite3.SQLITE_PERM: f"it cannot be opened: {_RIGHTS}",
}
_DAMAGED = (
    "it is damaged: move it away to begin with an empty one; kernels in it go on, and "
    "`kernelproto ps` lists those of this machine"
)


class SQLiteRegistry(SQLRegistry, AsyncContextManagerMixin):
    """A registry in an SQLite file; implements Registry.

    Use it in a block: ``async with SQLiteRegistry() as registry``. Several programs, and several
    registries of one program, may use the same file. It has to be on a local file system. Only this
    user can read it. It holds no keys of kernels.

    Args:
        path: the path of the file, which is made if it is missing; by default ``kernels.sqlite`` in
            the folder ``kernelproto`` of Jupyter's data folder.
        busy_seconds: how long a method waits for another program that writes.

    Attributes:
        path: the absolute path.

    Raises:
        RegistryError: on entering the block, the file cannot be opened, is damaged, belongs to
            another program, or was written by a newer version. The file is unchanged.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, busy_seconds: float = _BUSY_SECONDS
    ) -> None:
        super().__init__(SQLITE)
        default = os.path.join(jupyter_data_dir(), "kernelproto", _FILE)
        self.path = os.path.abspath(default if path is None else path)
        self._busy_seconds = busy_seconds
        self._database: sqlite3.Connection | None = None
        self._turn: anyio.CapacityLimiter | None = None
        self._owner = Owner()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[SQLiteRegistry]:
        self._owner = Owner()
        self._turn = anyio.CapacityLimiter(1)
        self._database = await self._in_thread(self._open)
        try:
            yield self
        finally:
            database, self._database = self._database, None
            if self._owner.is_here:  # a fork must not use the connection
                with anyio.CancelScope(shield=True):
                    await self._in_thread(database.close)

    async def _transaction(self, perform: Callable[[Cursor], T], *, writes: bool = True) -> T:
        self._owner.check("registry")
        if self._database is None:
            raise RegistryError(
                "the registry is not open: use it inside `async with SQLiteRegistry() as registry`"
            )
        begin = _BEGIN if writes else "begin"
        return await self._in_thread(partial(_perform, self._database, perform, begin))

    async def _in_thread(self, perform: Callable[[], T]) -> T:
        """Perform a function in a thread; a cancelled caller waits for its end."""
        with self._errors_named():
            return await anyio.to_thread.run_sync(perform, limiter=self._turn)

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        # SQLite makes its other files with the same rights.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            # Before the first write, so that a file that is refused stays as it is.
            with _in_transaction(database, "begin"):
                self._check(database)
            self._choose_journal(database)
            with _in_transaction(database, _BEGIN):
                self._migrate(database)
            database.execute("pragma foreign_keys = on")
        except BaseException:
            database.close()
            raise
        return database

    def _choose_journal(self, database: sqlite3.Connection) -> None:
        """Use a write-ahead log: a write takes less time, and does not wait for reads."""
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                database.execute("pragma journal_mode = wal")
            except sqlite3.OperationalError as error:  # SQLite itself does not wait here
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                break
        database.execute("pragma synchronous = normal")

    def _check(self, database: sqlite3.Connection) -> None:
        """Check that the file is a registry that this version can use, or empty."""
        version = _number(database, "user_version")
        application = _number(database, "application_id")
        is_empty = database.execute("select count(*) from sqlite_master").fetchone()[0] == 0
        if application != _APPLICATION and not (is_empty and application == version == 0):
            raise RegistryError(
                f"{self.path!r} is the database of another program: choose another file"
            )
        if version > len(_MIGRATIONS):
            raise RegistryError(
                f"the registry {self.path!r} was written by a newer version of kernelproto (schema "
                f"{version}, this version knows {len(_MIGRATIONS)}): update kernelproto, or choose "
                "another file"
            )
        (result,) = database.execute("pragma quick_check(1)").fetchone()
        if result != "ok":
            raise sqlite3.DatabaseError(result)

    def _migrate(self, database: sqlite3.Connection) -> None:
        """Bring the schema up to date, unless another program has just done so."""
        version = _number(database, "user_version")
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                database.execute(statement)
        if version < len(_MIGRATIONS):
            database.execute(f"pragma application_id = {_APPLICATION}")
            database.execute(f"pragma user_version = {len(_MIGRATIONS)}")

    @contextmanager
    def _errors_named(self) -> Generator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, UnicodeError, msgspec.MsgspecError) as error:
            reason = self._reason(error)
            raise RegistryError(f"the registry {self.path!r} cannot be used: {reason}") from error

    def _reason(self, error: Exception) -> str:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if not isinstance(error, sqlite3.Error):
            return value_fault(error)
        code = _code(error)
        if code in _REASONS:
            return _REASONS[code].format(seconds=self._busy_seconds)
        is_damaged = code in (None, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        return f"{_DAMAGED} ({error})" if is_damaged else str(error)


def _code(error: sqlite3.Error) -> int | None:
    """Return the kind of an error of SQLite; None for an error of this module."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


@contextmanager
def _in_transaction(database: sqlite3.Connection, begin: str) -> Generator[None]:
    database.execute(begin)
    try:
        yield
        database.execute("commit")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite has rolled back already
            database.execute("rollback")
        raise


def _perform(database: sqlite3.Connection, perform: Callable[[Cursor], T], begin: str) -> T:
    with closing(database.cursor()) as cursor, _in_transaction(database, begin):
        return perform(cursor)


def _number(database: sqlite3.Connection, pragma: str) -> int:
    return int(database.execute(f"pragma {pragma}").fetchone()[0])
