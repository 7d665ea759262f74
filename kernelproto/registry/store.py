"""SQLRegistry: the part of a registry that is the same for all databases."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from kernelproto.exceptions import PoolFull, QuotaExceeded
from kernelproto.interfaces import KernelHandle
from kernelproto.registry.interface import RegisteredKernel, RegisteredNode, RegisteredSession
from kernelproto.registry.statements import Statements

T = TypeVar("T")

_SECRET_BYTES = 32


class Cursor(Protocol):
    """A cursor of the DB-API, in a transaction."""

    def execute(self, statement: str, values: Mapping[str, object], /) -> object:
        """Perform a statement."""
        ...

    def executemany(self, statement: str, values: Sequence[Mapping[str, object]], /) -> object:
        """Perform a statement once for each of some values."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the rows that the last execute() has given."""
        ...


class SQLRegistry:
    """The methods of a Registry as statements; a subclass performs them.

    Args:
        statements: the statements in the dialect of the database.
    """

    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def add(
        self,
        kernel_id: str,
        *,
        owner: str,
        name: str,
        kernel_type: str,
        node: str,
        seconds: float,
        start: str = "",
        max_kernels: int | None = None,
        max_per_owner: int | None = None,
    ) -> int | None:
        has_limits = max_kernels is not None or max_per_owner is not None
        lock = self._sql.lock_limits if has_limits else None
        names = {"id": kernel_id, "owner": owner, "name": name}
        values = {
            **names,
            "kernel_type": kernel_type,
            "start": start,
            "node": node,
            "seconds": seconds,
        }

        def add(cursor: Cursor) -> int | None:
            if lock is not None:
                cursor.execute(lock, {})
            if has_limits:
                cursor.execute(self._sql.count, names)
                ((kernels, of_owner, exists),) = cursor.fetchall()
                if exists:
                    return None
                _check_limits(owner, kernels, of_owner, max_kernels, max_per_owner)
            cursor.execute(self._sql.add, values)
            rows = cursor.fetchall()
            return rows[0][0] if rows else None

        return await self._transaction(add)

    async def claim(self, kernel_id: str, *, node: str, seconds: float) -> int | None:
        fence: int | None = await self._first(
            self._sql.claim, id=kernel_id, node=node, seconds=seconds
        )
        return fence

    async def renew(
        self, node: str, *, seconds: float, idle: Mapping[str, float] | None = None
    ) -> Mapping[str, int]:
        # In one order, so that two programs of a node do not wait for each other.
        uses = [
            {"id": kernel_id, "node": node, "idle": age}
            for kernel_id, age in sorted((idle or {}).items())
        ]

        def renew(cursor: Cursor) -> dict[str, int]:
            cursor.execute(self._sql.see, {"node": node})
            cursor.executemany(self._sql.use, uses)
            cursor.execute(self._sql.renew, {"node": node, "seconds": seconds})
            return dict(cursor.fetchall())

        return await self._transaction(renew)

    async def set_handle(self, kernel_id: str, fence: int, handle: KernelHandle) -> bool:
        text = handle.to_json()
        done = await self._first(self._sql.set_handle, id=kernel_id, fence=fence, handle=text)
        return done is not None

    async def begin_restart(self, kernel_id: str, fence: int) -> bool:
        return await self._first(self._sql.begin_restart, id=kernel_id, fence=fence) is not None

    async def release(self, kernel_id: str, fence: int) -> bool:
        return await self._first(self._sql.release, id=kernel_id, fence=fence) is not None

    async def remove(self, kernel_id: str, fence: int) -> bool:
        return await self._first(self._sql.remove, id=kernel_id, fence=fence) is not None

    async def set_notes(self, node: str, notes: Mapping[str, str]) -> None:
        values = [
            {"id": kernel_id, "node": node, "note": note}
            for kernel_id, note in sorted(notes.items())
        ]

        def store(cursor: Cursor) -> None:
            cursor.executemany(self._sql.set_note, values)

        await self._transaction(store)

    async def remove_unheld(self, *, seconds: float) -> list[str]:
        def remove(cursor: Cursor) -> list[str]:
            cursor.execute(self._sql.remove_unheld, {"seconds": seconds})
            return [kernel_id for (kernel_id,) in cursor.fetchall()]

        return await self._transaction(remove)

    async def kernels(
        self, *, owner: str | None = None, kernel_id: str | None = None, unheld: bool = False
    ) -> list[RegisteredKernel]:
        query = self._sql.kernels
        rows = await self._read(query, owner=owner, id=kernel_id, unheld=int(unheld))
        return [_kernel(row) for row in rows]

    async def count(self) -> int:
        return int((await self._read(self._sql.count_all))[0][0])

    async def set_session(self, session: RegisteredSession) -> bool:
        values = msgspec.structs.asdict(session)
        return await self._first(self._sql.set_session, **values) is not None

    async def remove_session(self, owner: str, session_id: str) -> bool:
        done = await self._first(self._sql.remove_session, owner=owner, id=session_id)
        return done is not None

    async def sessions(self, *, owner: str | None = None) -> list[RegisteredSession]:
        names = RegisteredSession.__struct_fields__
        rows = await self._read(self._sql.sessions, owner=owner)
        return [RegisteredSession(**dict(zip(names, row, strict=True))) for row in rows]

    async def nodes(self) -> list[RegisteredNode]:
        rows = await self._read(self._sql.nodes)
        return [RegisteredNode(name=name, unseen=age) for name, age in rows]

    async def secret(self) -> str:
        value = secrets.token_hex(_SECRET_BYTES)

        def find(cursor: Cursor) -> str:
            cursor.execute(self._sql.make_secret, {"value": value})
            cursor.execute(self._sql.secret, {})
            return str(cursor.fetchall()[0][0])

        return await self._transaction(find)

    @abstractmethod
    async def _transaction(self, perform: Callable[[Cursor], T], *, writes: bool = True) -> T:
        """Perform a function in a transaction, in a thread.

        Args:
            perform: executes the statements.
            writes: whether they may change anything.

        Raises:
            RegistryError: the store cannot be read or written.
        """

    async def _read(self, query: str, **values: object) -> list[Any]:
        """Return the rows of a query."""

        def read(cursor: Cursor) -> list[Any]:
            cursor.execute(query, values)
            return cursor.fetchall()

        return await self._transaction(read, writes=False)

    async def _first(self, statement: str, **values: object) -> Any:
        """Perform a statement; return the first value that it gives, None if it changed nothing."""

        def perform(cursor: Cursor) -> Any:
            cursor.execute(statement, values)
            rows = cursor.fetchall()
            return rows[0][0] if rows else None

        return await self._transaction(perform)


def value_fault(error: Exception) -> str:
    """Return why a value cannot be stored (UnicodeError) or read (MsgspecError)."""
    if isinstance(error, UnicodeError):
        return "it takes only text that is valid Unicode"
    return f"a kernel in it has a handle that is not valid ({error})"


def _check_limits(
    owner: str, kernels: int, of_owner: int, max_kernels: int | None, max_per_owner: int | None
) -> None:
    """Check that a further kernel of a user is within the limits; raises as add() does."""
    if max_per_owner is not None and of_owner >= max_per_owner:
        raise QuotaExceeded(
            f"{owner!r} already has {of_owner} of {max_per_owner} kernels, on all servers of the "
            "registry: release one first, or raise max_per_user",
            limit=max_per_owner,
        )
    if max_kernels is not None and kernels >= max_kernels:
        raise PoolFull(
            f"the servers of the registry have {kernels} of {max_kernels} kernels: try again "
            "later, or raise max_kernels",
            limit=max_kernels,
        )


def _kernel(row: Sequence[Any]) -> RegisteredKernel:
    # The statement has the columns in the order of the fields.
    values = dict(zip(RegisteredKernel.__struct_fields__, row, strict=True))
    if values["handle"] is not None:
        values["handle"] = KernelHandle.from_json(values["handle"])
    values["restarting"] = bool(values["restarting"])
    return RegisteredKernel(**values)
