"""Promises: how the conformance checks say what was promised and what was found instead."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import UnionType
from typing import cast

import anyio


@contextmanager
def promised(promise: str, seconds: float) -> Generator[None]:
    """Turn whatever goes wrong in the block into the breach of a promise.

    Args:
        promise: in words.
        seconds: how long the block may take.

    Raises:
        AssertionError: the block raised an exception, or was not done in time.
    """
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise AssertionError(f"broken promise: {promise}: not within {seconds:g} s") from None
    except Exception as error:
        breach = _breach(error)
        if breach is not None:
            raise breach from None
        raise AssertionError(f"broken promise: {promise}: it raised {error!r}") from error


def require(kept: bool, promise: str, found: object = None) -> None:
    """Raise AssertionError unless the promise was kept.

    Args:
        kept: whether it was.
        promise: in words.
        found: what shows that it was not.
    """
    if not kept:
        raise AssertionError(f"broken promise: {promise}: found {found!r}")


def require_type(value: object, kind: type[object] | UnionType, promise: str) -> None:
    """Raise AssertionError unless *value* is a *kind*; what is annotated need not be true."""
    require(isinstance(value, kind), promise, value)


def _breach(error: Exception) -> AssertionError | None:
    """Return the AssertionError in what was raised, if there is one."""
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error if isinstance(error, AssertionError) else None
