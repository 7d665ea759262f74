"""PostgreSQLRegistry: a registry in a PostgreSQL database, for the programs of several machines.

Theory of operation
-------------------
A registry has one connection, and uses it in one thread at a time, so the event loop never waits
for the network. Each method is one transaction. It must be done ``call_seconds`` after the call;
otherwise the connection is shut down, which ends the wait of the thread, and the method raises.

A connection that the server has closed is replaced before a statement is sent. A statement whose
result was lost is not repeated here, because the server may still perform it. Such a late statement
cannot overtake a later one: the commit is sent only after the result has arrived, and until the
commit or the end of the old connection, the old transaction locks the rows that it has changed.

All transactions are READ COMMITTED: a claim that waits for another claim on the same kernel
evaluates its condition again, with the time after the wait, so only one of them succeeds. If the
server ends a transaction because of a deadlock or a conflict, the transaction is repeated.

The tables are in a schema of their own, with a table ``version``. Programs that are opened at the
same time bring them up to date one after the other, under an advisory lock.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import msgspec
from anyio import AsyncContextManagerMixin

from kernelproto.concurrency.process_owner import Owner
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import RegistryError
from kernelproto.extras import importing
from kernelproto.registry.statements import POSTGRESQL
from kernelproto.registry.store import Cursor, SQLRegistry, value_fault

with importing("postgresql"):
    import psycopg
    from psycopg import errors, sql
    from psycopg.conninfo import conninfo_to_dict

T = TypeVar("T")

_Connection = psycopg.Connection[tuple[Any, ...]]

_CALL_SECONDS = 10.0
_CONNECT_SECONDS = 5
_CLOSE_SECONDS = 2.0
_SHUT_DOWN_AGAIN_SECONDS = 0.1

# How often a transaction is performed if the server ends it because of others.
_ATTEMPTS = 5

# Another program may bring the tables up to date, or end, for so long.
_LOCK_SECONDS = 2.0

# The first halves of the keys of the advisory locks; the second half is the hash of the schema.
_MIGRATION_LOCK = 0x4B50524F  # "KPRO"
_EXCLUSIVE_LOCK = _MIGRATION_LOCK + 1
_NODE_LOCK = _MIGRATION_LOCK + 2  # the next one is in statements.py

# The statements that lead from each schema to the next one. Never change one that was released. A
# program of the version before must be able to use the tables during an upgrade.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "create table version (number integer not null)",
        "insert into version values (0)",
        """
        create table kernel (
            id text primary key,
            owner text not null,
            name text not null,
            kernel_type text not null,
            handle text,
            added_at double precision not null,
            used_at double precision not null,
            node text not null,
            fence bigint not null,
            held_until double precision not null,
            start text not null,
            note text not null default '',
            restarting integer not null default 0,
            unique (owner, name)
        )
        """,
        "create index kernel_of_node on kernel (node)",
        "create table node (name text primary key, seen_at double precision not null)",
        """
        create table session (
            rowid bigint generated always as identity,
            id text primary key,
            owner text not null,
            path text not null,
            name text not null,
            type text not null,
            kernel_id text not null references kernel (id) on delete cascade
        )
        """,
        "create index session_of_kernel on session (kernel_id)",
    ),
    ("create table secret (name text primary key, value text not null)",),
)


class PostgreSQLRegistry(SQLRegistry, AsyncContextManagerMixin):
    """A registry in a PostgreSQL database; implements Registry. Extra ``postgresql``.

    Use it in a block: ``async with PostgreSQLRegistry("postgresql://db/kernels") as registry``. The
    database must exist, and its user must be allowed to create a schema in it, or own the schema.

    If the connection is lost, the next call makes a new one. A method that raises RegistryError has
    changed nothing, with one exception: if the server confirmed nothing in time, the change may
    have been made. It is safe to repeat the call: a kernel that was added, but not confirmed, is
    claimed by the same node.

    Args:
        url: a URL or connection string of libpq; its parameters, ``PGPASSFILE`` and the other
            variables of libpq apply. Errors do not show the password.
        schema: the schema with the tables; different programs can share a database this way.
        exclusive: whether no other registry with this argument or with *node* may use the schema
            meanwhile. It is an advisory lock of the session. Not with a pooler in transaction mode.
        node: the name of a node that no other registry may have meanwhile. Registries with
            different names share the schema.
        call_seconds: the time limit of each method, without the lookup of the host's name.

    Attributes:
        place: the host, the database and the schema, for messages.

    Raises:
        RegistryError: on entering the block, the server cannot be reached or refuses access, the
            schema belongs to another program or was written by a newer version, or another program
            uses it and *exclusive* is given. Nothing was changed.
        ValueError: *url* is no valid URL or connection string.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "kernelproto",
        exclusive: bool = False,
        node: str | None = None,
        call_seconds: float = _CALL_SECONDS,
    ) -> None:
        super().__init__(POSTGRESQL)
        self._parameters = _parameters(url, call_seconds)
        self._schema = schema
        self._is_exclusive = exclusive
        self._node = node
        self._call_seconds = call_seconds
        self.place = _place(self._parameters, schema)
        self._is_open = False
        self._connection: _Connection | None = None
        # The same socket under a descriptor that only this object closes.
        self._socket: socket.socket | None = None
        self._socket_lock = threading.Lock()
        self._turn: anyio.Lock | None = None
        self._thread: anyio.CapacityLimiter | None = None
        self._owner = Owner()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[PostgreSQLRegistry]:
        self._owner = Owner()
        self._turn, self._thread = anyio.Lock(), anyio.CapacityLimiter(1)
        await self._in_thread(partial(self._perform, self._migrate))
        self._is_open = True
        try:
            yield self
        finally:
            self._is_open = False
            if self._owner.is_here:  # a fork must not use the connection
                with anyio.CancelScope(shield=True):
                    await self._in_thread(self._disconnect, seconds=_CLOSE_SECONDS)

    async def _transaction(self, perform: Callable[[Cursor], T], *, writes: bool = True) -> T:
        self._owner.check("registry")
        if not self._is_open:
            raise RegistryError(
                "the registry is not open: use it inside "
                "`async with PostgreSQLRegistry(url) as registry`"
            )
        return await self._in_thread(partial(self._perform, perform))

    async def _in_thread(self, perform: Callable[[], T], *, seconds: float | None = None) -> T:
        """Perform a function in a thread; a cancelled caller waits for its end."""
        assert self._turn is not None
        seconds = self._call_seconds if seconds is None else seconds
        deadline = anyio.current_time() + seconds
        results: list[T] = []
        with self._errors_named(seconds):
            with anyio.fail_after(seconds):
                await self._turn.acquire()
            try:
                with anyio.CancelScope(shield=True):
                    async with background_tasks() as tasks:
                        tasks.start_soon(self._shut_down_at, deadline)
                        try:
                            done = await anyio.to_thread.run_sync(perform, limiter=self._thread)
                            results.append(done)
                        except psycopg.Error as error:
                            if anyio.current_time() >= deadline:
                                raise TimeoutError from error
                            raise
            finally:
                self._turn.release()
        return results[0]

    async def _shut_down_at(self, deadline: float) -> None:
        """Shut the connection down at a time, which ends the wait of the thread that uses it."""
        await anyio.sleep_until(deadline)
        while True:  # the thread may be making a connection
            with self._socket_lock, suppress(OSError):
                if self._socket is not None:
                    self._socket.shutdown(socket.SHUT_RDWR)
            await anyio.sleep(_SHUT_DOWN_AGAIN_SECONDS)

    def _perform(self, perform: Callable[[Cursor], T]) -> T:
        """Perform a function in a transaction; again if the server ends it because of others."""
        for attempt in range(1, _ATTEMPTS + 1):
            connection = self._connected()
            try:
                with connection.transaction(), connection.cursor() as cursor:
                    return perform(cast("Cursor", cursor))  # psycopg prefers literal statements
            except (errors.SerializationFailure, errors.DeadlockDetected):
                if attempt == _ATTEMPTS:
                    raise
            except BaseException:
                self._disconnect()
                raise
        raise AssertionError

    def _connected(self) -> _Connection:
        """Return the connection; make a new one if there is none or the server has closed it."""
        if self._socket is not None and _is_readable(self._socket):
            self._disconnect()
        if self._connection is None:
            self._connect()
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        connection = psycopg.connect(**self._parameters)
        try:
            # This descriptor is never one of another file: psycopg closes its own at any time.
            self._socket = socket.fromfd(connection.fileno(), -1, -1)
            connection.autocommit = True  # each transaction is begun explicitly
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            connection.prepare_threshold = None  # poolers may not support it
            milliseconds = str(round(self._call_seconds * 1000))
            settings = {
                "search_path": sql.Identifier(self._schema).as_string(connection),
                # The server does not go on for a client that waits no longer.
                "statement_timeout": milliseconds,
                "idle_in_transaction_session_timeout": milliseconds,
                "lock_timeout": str(round(_LOCK_SECONDS * 1000)),
            }
            for name, value in settings.items():
                connection.execute("select set_config(%s, %s, false)", (name, value))
            self._lock(connection)
        except BaseException:
            connection.close()
            self._close_socket()
            raise
        self._connection = connection

    def _lock(self, connection: _Connection) -> None:
        """Take the locks of this program, which the server releases when the connection ends."""
        locks: list[tuple[str, int, str, str]] = []
        if self._is_exclusive:
            user = f"another program uses {self.place}"
            locks.append(("pg_advisory_lock", _EXCLUSIVE_LOCK, self._schema, user))
        elif self._node is not None:
            user = f"a program that does not share {self.place} uses it"
            locks.append(("pg_advisory_lock_shared", _EXCLUSIVE_LOCK, self._schema, user))
            user = f"another program has the name {self._node} in {self.place}"
            locks.append(("pg_advisory_lock", _NODE_LOCK, f"{self._schema} {self._node}", user))
        for function, key, text, user in locks:
            try:
                query = sql.SQL("select {}(%s, hashtext(%s))").format(sql.Identifier(function))
                connection.execute(query, (key, text))
            except errors.LockNotAvailable as error:
                other = "schema" if key == _EXCLUSIVE_LOCK else "name"
                raise RegistryError(
                    f"{user}: end that program, or choose another {other}"
                ) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._close_socket()

    def _close_socket(self) -> None:
        with self._socket_lock:  # otherwise its descriptor could be another file's by now
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _migrate(self, cursor: Cursor) -> None:
        """Bring the tables up to date, unless another program has just done so."""
        cursor.execute(
            "select pg_advisory_xact_lock(%(lock)s, hashtext(%(schema)s))",
            {"lock": _MIGRATION_LOCK, "schema": self._schema},
        )
        cursor.execute(
            "select to_regnamespace(%(schema)s) is not null, to_regclass('version') is not null, "
            "to_regclass('kernel') is not null",
            {"schema": sql.Identifier(self._schema).as_string()},
        )
        ((has_schema, has_version, has_kernel),) = cursor.fetchall()
        if not has_schema:
            name = sql.Identifier(self._schema).as_string()
            cursor.execute(f"create schema {name}", {})
        version = 0
        if has_version:
            cursor.execute("select number from version", {})
            ((version,),) = cursor.fetchall()
        elif has_kernel:
            raise RegistryError(
                f"{self.place} has tables of another program: choose another schema"
            )
        if version > len(_MIGRATIONS):
            raise RegistryError(
                f"{self.place} was written by a newer version of kernelproto (schema {version}, "
                f"this version knows {len(_MIGRATIONS)}): update kernelproto, or choose another "
                "schema"
            )
        if version < len(_MIGRATIONS):
            for statements in _MIGRATIONS[version:]:
                for statement in statements:
                    cursor.execute(statement, {})
            cursor.execute("update version set number = %(number)s", {"number": len(_MIGRATIONS)})

    @contextmanager
    def _errors_named(self, seconds: float) -> Generator[None]:
        try:
            yield
        except TimeoutError as error:
            raise RegistryError(
                f"{self.place} did not answer within {seconds:g} s: check the server and the "
                "network; the next call connects again"
            ) from error
        except (OSError, psycopg.Error, UnicodeError, msgspec.MsgspecError) as error:
            raise RegistryError(f"{self.place} cannot be used: {_reason(error)}") from error


def _parameters(url: str, call_seconds: float) -> dict[str, Any]:
    """Return the parameters of the connection."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # The error of libpq may show parts of a password.
        raise ValueError(
            "the URL of the registry is not valid: write postgresql://USER@HOST/DATABASE"
        ) from (error if "@" not in url else None)
    milliseconds = max(1, round(call_seconds * 1000))
    defaults = {
        "application_name": "kernelproto",
        "client_encoding": "utf8",
        "connect_timeout": max(2, min(_CONNECT_SECONDS, int(call_seconds))),
        "keepalives_idle": max(1, int(call_seconds)),
        "tcp_user_timeout": milliseconds,
        # Of several hosts, the one that accepts writes: after a failover, the new primary.
        "target_session_attrs": "read-write",
    }
    return {**defaults, **given}


def _place(parameters: dict[str, Any], schema: str) -> str:
    host = parameters.get("host") or parameters.get("hostaddr") or "this machine"
    database = parameters.get("dbname") or "default"
    return f"the registry on {host} (database {database!r}, schema {schema!r})"


def _is_readable(connected: socket.socket) -> bool:
    """Return whether a server that has nothing to answer has sent something, or has closed."""
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))


def _reason(error: Exception) -> str:
    if isinstance(error, (UnicodeError, msgspec.MsgspecError)):
        return value_fault(error)
    text = " ".join(str(error).split())
    if isinstance(error, errors.InsufficientPrivilege):
        return f"{text}: give the user the rights to create and use the schema"
    if isinstance(error, psycopg.OperationalError):
        return f"{text}: check the server and the network; the next call connects again"
    return text
