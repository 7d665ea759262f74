"""Requirements of the conformance checks, and the errors that report a violation."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from types import UnionType
from typing import cast

import anyio


@contextmanager
def checking(requirement: str, seconds: float) -> Generator[None]:
    """Report an exception or timeout of the block as a violation of a requirement.

    Args:
        requirement: a sentence.
        seconds: how long the block may take.

    Raises:
        AssertionError: the block raised an exception, or took longer.
    """
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise AssertionError(
            f"requirement violated: {requirement}: not within {seconds:g} s"
        ) from None
    except Exception as error:
        violation = _violation(error)
        if violation is not None:
            raise violation from None
        raise AssertionError(f"requirement violated: {requirement}: it raised {error!r}") from error


def require(fulfilled: bool, requirement: str, found: object = None) -> None:
    """Raise AssertionError unless a requirement is fulfilled.

    Args:
        fulfilled: whether the rule is fulfilled.
        requirement: a sentence.
        found: the value that violates the rule.
    """
    if not fulfilled:
        raise AssertionError(f"requirement violated: {requirement}: found {found!r}")


def require_type(value: object, kind: type[object] | UnionType, requirement: str) -> None:
    """Raise AssertionError unless *value* is a *kind*; an annotation alone proves nothing."""
    require(isinstance(value, kind), requirement, value)


def _violation(error: Exception) -> AssertionError | None:
    """Return the AssertionError in *error*, or None."""
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error if isinstance(error, AssertionError) else None
