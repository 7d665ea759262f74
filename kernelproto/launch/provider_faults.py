"""Errors of kernel providers that break their contract."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from kernelproto.exceptions import KernelProtoError
from kernelproto.interfaces import KernelManager
from kernelproto.launch.failures import shortages_named
from kernelproto.shortage import require_descriptors
from kernelproto.wire.connection import ConnectionInfo

# Python treats an unreadable folder as empty. So with fewer descriptors than this, providers and
# kernel types would seem to be missing.
DISCOVERY_DESCRIPTORS = 8


class BrokenProvider(Exception):
    """A provider has broken its contract; the provider's exception, if any, is the cause."""


@contextmanager
def faults_named(provider: str, kernel: str, action: str = "launching") -> Generator[None]:
    """Raise a BrokenProvider where the block, a call of the provider, fails unexpectedly."""
    try:
        with shortages_named():
            require_descriptors(DISCOVERY_DESCRIPTORS)
            yield
    except KernelProtoError:
        raise
    except Exception as error:
        words = f"raised {type(error).__name__}: {error}"
        raise _broken(provider, kernel, action, words) from error


def checked_launch(
    provider: str, kernel: str, launched: Any, action: str = "launching"
) -> tuple[ConnectionInfo, KernelManager]:
    """Return the result of a launch, or raise where a provider has returned something else."""
    match launched:
        case ConnectionInfo() as info, KernelManager() as manager:
            return info, manager
        case _:
            words = f"returned no ConnectionInfo and KernelManager: {launched!r}"
            raise _broken(provider, kernel, action, words)


def _broken(provider: str, kernel: str, action: str, words: str) -> BrokenProvider:
    return BrokenProvider(
        f"kernel provider {provider!r} is broken: {action} {kernel!r}, it {words}"
    )
