"""Fields of every log record of a task and of its child tasks.

Code deep inside a launch does not know the kernel's id and user. The code that begins the launch
does: ``with logging_about(kernel_id=...)`` sets the fields, and a formatter reads ``log_fields()``.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})
_fields: ContextVar[Mapping[str, str]] = ContextVar("kernelproto.log_fields", default=_NOTHING)


def log_fields() -> Mapping[str, str]:
    """Return the fields of the current task's log records."""
    return _fields.get()


@contextmanager
def logging_about(**fields: str) -> Generator[None]:
    """Add fields to the log records of the block and of tasks started there.

    Args:
        fields: by name, such as ``kernel_id`` and ``user``; added to those of the outer block.
    """
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)
