"""Machines that answer no connection, as after a power failure, without a change of the network."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

_PATIENCE_SECONDS = 0.5


@contextmanager
def filled(address: tuple[str, int]) -> Iterator[None]:
    """Fill the queue of a port whose program accepts no connection.

    Linux then drops further connections without an answer.
    """
    with ExitStack() as stack:
        with suppress(TimeoutError):
            while True:
                connection = socket.create_connection(address, timeout=_PATIENCE_SECONDS)
                stack.enter_context(connection)
        yield


@contextmanager
def silent(pid: int, address: tuple[str, int]) -> Iterator[None]:
    """Stop a process, and let its port answer no connection."""
    os.kill(pid, signal.SIGSTOP)
    try:
        with filled(address):
            yield
    finally:
        os.kill(pid, signal.SIGCONT)
