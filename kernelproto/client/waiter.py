"""Waiter: one value that one side awaits and the other side sets, or fails."""

from __future__ import annotations

from typing import Generic, TypeVar

import anyio

from kernelproto.exceptions import fresh

T = TypeVar("T")


class Waiter(Generic[T]):
    """Hands over one value, or one exception; what comes after the first is ignored."""

    __slots__ = ("_error", "_event", "_value")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is a value or an exception."""
        return self._event.is_set()

    def set(self, value: T) -> None:
        """Give the value; whoever waits gets it."""
        if not self._event.is_set():
            self._value = value
            self._event.set()

    def fail(self, error: Exception) -> None:
        """Give an exception; whoever waits raises a copy of it."""
        if not self._event.is_set():
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
