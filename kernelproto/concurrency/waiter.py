"""Waiter: one value, or one exception, that tasks wait for."""

from __future__ import annotations

from typing import Generic, TypeVar

import anyio

from kernelproto.exceptions import fresh

T = TypeVar("T")


class Waiter(Generic[T]):
    """Hands over one value or one exception; later ones are ignored.

    Attributes:
        is_set: whether there is a value or an exception.
    """

    __slots__ = ("_error", "_event", "_value", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._event = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    def set(self, value: T) -> None:
        """Give the value to the tasks that wait."""
        if not self.is_set:
            self.is_set = True
            self._value = value
            self._event.set()

    def fail(self, error: Exception) -> None:
        """Raise a copy of an exception in the tasks that wait."""
        if not self.is_set:
            self.is_set = True
            self._error = error
            self._event.set()

    async def wait(self) -> T:
        """Wait for the value.

        Raises:
            Exception: a copy of the error that ``fail`` was called with.
        """
        await self._event.wait()
        if self._error is not None:
            raise fresh(self._error)
        assert self._value is not None
        return self._value
