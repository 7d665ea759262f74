"""Waiter: one value that one side awaits and the other side sets, or fails."""

from __future__ import annotations

from typing import Generic, TypeVar

import anyio

from kernelproto.exceptions import fresh

T = TypeVar("T")


class Waiter(Generic[T]):
    """Hands over one value, or one exception; what comes after the first is ignored.

    Attributes:
        is_set: whether there is one.
    """

    __slots__ = ("_error", "_event", "_value", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._event = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    def set(self, value: T) -> None:
        """Give the value; whoever waits gets it."""
        if not self.is_set:
            self.is_set = True
            self._value = value
            self._event.set()

    def fail(self, error: Exception) -> None:
        """Give an exception; whoever waits raises a copy of it."""
        if not self.is_set:
            self.is_set = True
            self._error = error
            self._event.set()

    async def wait(self) -> T:
        """Wait for the value.

        Raises:
            Exception: what ``fail`` was called with.
        """
        await self._event.wait()
        if self._error is not None:
            raise fresh(self._error)
        assert self._value is not None
        return self._value
