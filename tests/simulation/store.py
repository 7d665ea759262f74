"""The registry of the simulation: the real one, in memory, with a simulated clock and faults."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import anyio
import msgspec
import trio

from kernelproto.registry import SQLiteRegistry
from kernelproto.registry import sqlite as real
from kernelproto.registry.statements import SQLITE

T = TypeVar("T")

_SECONDS_A_DAY = 86400.0
_JULIAN_DAY_OF_EPOCH = 2440587.5
_BEGIN = 1_800_000_000.0  # seconds since the epoch


class Row(NamedTuple):
    """A kernel in the registry."""

    kernel_id: str
    owner: str
    name: str
    node: str
    process: int | None


class Link(Protocol):
    """The way of one program to the registry."""

    async def ask(self) -> None:
        """Bring a question to the registry; raise sqlite3.Error if the registry does not answer."""
        ...

    def check(self) -> None:
        """Raise sqlite3.Error if the program was killed."""
        ...

    def note_added(self, kernel_id: str, fence: int) -> None:
        """Note that the program has added a kernel, and its fence."""
        ...

    def note_claimed(self, kernel_id: str, fence: int) -> None:
        """Note that the program has claimed a kernel, and its fence."""
        ...


class Store:
    """A database in memory, which several programs open; it exists until ``close``.

    Attributes:
        ahead: the seconds by which its clock is ahead of the simulation's; may be negative.
    """

    def __init__(self, name: str) -> None:
        self.ahead = 0.0
        self._uri = f"file:{name}?mode=memory&cache=shared"
        self._anchor = self.connect()

    def connect(self) -> sqlite3.Connection:
        """Open the database; the function of SQL that gives the time is that of the simulation."""
        database = sqlite3.connect(
            self._uri, uri=True, isolation_level=None, check_same_thread=False
        )
        database.create_function("julianday", 1, lambda moment: self._julian_day())
        return database

    def rows(self) -> list[Row]:
        """Return all kernels, without any faults."""
        try:
            found = self._anchor.execute("select id, owner, name, node, handle from kernel")
            return [Row(*facts, _process(handle)) for *facts, handle in found.fetchall()]
        except sqlite3.OperationalError:  # no program has opened it yet
            return []

    def claim(self, kernel_id: str, node: str, seconds: float) -> bool:
        """Claim a kernel for another node, if its claim has lapsed."""
        values = {"id": kernel_id, "node": node, "seconds": seconds}
        return self._anchor.execute(SQLITE.claim, values).fetchone() is not None

    def close(self) -> None:
        """Delete the database."""
        self._anchor.close()

    def _julian_day(self) -> float:
        seconds = _BEGIN + trio.current_time() + self.ahead
        return seconds / _SECONDS_A_DAY + _JULIAN_DAY_OF_EPOCH


class SimulatedRegistry(SQLiteRegistry):
    """The registry as one program sees it: all statements are the real ones.

    Only the thread is missing. Like a thread, a statement that has begun is not cancelled.
    """

    def __init__(self, store: Store, link: Link) -> None:
        super().__init__("in-memory")
        self._store = store
        self._link = link

    def _open(self) -> sqlite3.Connection:
        database = self._store.connect()
        with real._in_transaction(database, "begin"):
            self._check(database)
        with real._in_transaction(database, "begin immediate"):
            self._migrate(database)
        return database

    async def add(self, kernel_id: str, **facts: Any) -> int | None:
        fence = await super().add(kernel_id, **facts)
        if fence is not None:
            self._link.note_added(kernel_id, fence)
        return fence

    async def claim(self, kernel_id: str, *, node: str, seconds: float) -> int | None:
        fence = await super().claim(kernel_id, node=node, seconds=seconds)
        if fence is not None:
            self._link.note_claimed(kernel_id, fence)
        return fence

    async def _in_thread(self, perform: Callable[[], T]) -> T:
        if self._database is None:  # it is being opened or closed
            return perform()
        await anyio.lowlevel.checkpoint()
        with self._errors_named(), anyio.CancelScope(shield=True):
            await self._link.ask()
            self._link.check()
            result = perform()
            await anyio.lowlevel.checkpoint()
            self._link.check()
        return result


def _process(handle: str | None) -> int | None:
    return None if handle is None else msgspec.json.decode(handle)["place"]["process"]
