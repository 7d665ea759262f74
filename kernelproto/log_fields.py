"""What belongs to every log record of a task and of the tasks that it starts.

A warning from deep inside a launch does not know whose kernel it is about; who began the launch
does. ``with logging_about(kernel_id=...)`` says so once, and a formatter asks ``log_fields``.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})
_fields: ContextVar[Mapping[str, str]] = ContextVar("kernelproto.log_fields", default=_NOTHING)


def log_fields() -> Mapping[str, str]:
    """Return what the current task's log records are about."""
    return _fields.get()


@contextmanager
def logging_about(**fields: str) -> Generator[None]:
    """Say what the log records of the block are about, and those of tasks that begin in it.

    Args:
        fields: by name, such as ``kernel_id`` and ``user``, beside those of the block around it.
    """
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)
