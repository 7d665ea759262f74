"""Requests: the requests of programs to the host.

Each request is a JSON object with "op", the name of an operation, and its arguments: those of
Starts.start() and of the methods below; "list" and "end" have none. All but "list" and "start" name
a kernel, and are refused while another program owns the kernel, unless they have the "claim" of the
owner.
"""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .kernel import Kernel
from .start import LONGEST_TOKEN, Refused, Starts, attached, check_seconds

if TYPE_CHECKING:
    from .server import Server
    from .tls import TlsSocket

# The process, the user and the group at the other end of a socket; Linux only.
_PEER = struct.Struct("3i")


class Requests:
    """Carries out requests.

    Args:
        server: the loop, with all kernels.
        starts: starts kernels.
    """

    def __init__(self, server: Server, starts: Starts) -> None:
        self._server = server
        self._starts = starts
        self._operations: dict[str, Callable[..., dict[str, Any]]] = {
            "attach": self._attach,
            "status": self._status,
            "signal": self._signal,
            "linger": self._linger,
            "record": self._write_record,
        }

    def answer(
        self, connection: Connection, request: dict[str, Any], number: int
    ) -> dict[str, Any] | None:
        """Return the answer to a request; None for a later answer."""
        arguments = dict(request)
        name = arguments.pop("op", None)
        try:
            if name == "list":
                kernels = self._server.kernels.values()
                return {"ok": {"kernels": [_describe(kernel) for kernel in kernels]}}
            kernel = self._server.kernels.get(str(arguments.get("kernel")))
            claim = arguments.get("claim")
            if name == "start":
                if kernel is None or not claim or claim != kernel.claim:
                    return self._starts.start(connection, number, **arguments)
                # The connection was lost before the answer arrived.
                name = "attach"
                arguments = {"claim": claim, "attachment": arguments["attachment"], "after": 0}
            operation = self._operations.get(str(name))
            if operation is None and name != "end":
                raise Refused("bad_request", f"this host has no operation {str(name)[:100]!r}")
            if kernel is None:
                if name == "end" and self._starts.abandon(str(arguments.get("kernel"))):
                    return {"ok": {}}
                raise Refused("no_such_kernel", "this host has no such kernel")
            _check_owner(connection, kernel, claim)
            if name == "end":  # the answer follows, with the exit status
                self._server.end(kernel, (connection, number))
                return None
            assert operation is not None
            arguments.pop("kernel", None)
            if name != "attach":
                arguments.pop("claim", None)
            return {"ok": operation(connection, kernel, **arguments)}
        except Refused as refused:
            return {"error": refused.error}
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # of the arguments
            return {"error": {"kind": "bad_request", "reason": f"{str(name)[:100]}: {error!r}"}}

    def _attach(
        self,
        connection: Connection,
        kernel: Kernel,
        *,
        claim: str,
        attachment: str,
        after: int | None = None,
    ) -> dict[str, Any]:
        """Make the connection the owner of a kernel, and send the missing messages.

        Args:
            connection: the connection.
            kernel: the kernel.
            claim: the secret of the owner.
            attachment: the id in which the owner numbers messages.
            after: the number of the last received message; None means the last acknowledged one.
        """
        if connection.kernel not in (None, kernel):
            raise Refused("bad_request", "attach: this connection has another kernel")
        if not 0 < len(claim) <= LONGEST_TOKEN:
            raise Refused("bad_request", "attach: the claim is not valid")
        after = kernel.log.acknowledged if after is None else max(0, min(after, kernel.log.last))
        before = kernel.owner
        kernel.attach(connection, claim, attachment)
        if before is not None and before is not connection:
            self._server.replace(before)
        connection.attach(kernel, after)
        return {
            **attached(kernel),
            "after": after,
            "lost": max(0, kernel.log.first - after - 1),
            "acknowledged": kernel.log.acknowledged,
            "passed": kernel.passed,
        }

    def _status(self, connection: Connection, kernel: Kernel) -> dict[str, Any]:
        """Return the state of a kernel, and the tail of the output."""
        return {**_describe(kernel), "tail": kernel.output.tail()}

    def _signal(self, connection: Connection, kernel: Kernel, *, number: int) -> dict[str, Any]:
        """Send a signal to the process group of a kernel."""
        if number and number not in signal.valid_signals():
            raise Refused("bad_request", f"signal: there is no signal {number!r}")
        if kernel.ended is None:
            kernel.process.signal(number)
        return {}

    def _linger(
        self, connection: Connection, kernel: Kernel, *, seconds: float | None
    ) -> dict[str, Any]:
        """Change the linger time of a kernel."""
        kernel.linger = check_seconds(seconds)
        return {}

    def _write_record(
        self, connection: Connection, kernel: Kernel, *, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change fields of the record of a kernel."""
        try:
            kernel.write_record(changes)
        except OSError as error:
            raise Refused("launch", str(error), errno=error.errno, file=None) from None
        return {}


def _describe(kernel: Kernel) -> dict[str, Any]:
    return {
        "kernel": kernel.kernel_id,
        "pid": kernel.process.pid,
        "ended": None if kernel.ended is None else kernel.ended._asdict(),
        "owned": kernel.owner is not None,
        "listed_as": kernel.listed_as,
        "linger": kernel.linger,
        "last": kernel.log.last,
        "acknowledged": kernel.log.acknowledged,
    }


def _check_owner(connection: Connection, kernel: Kernel, claim: object) -> None:
    owner = kernel.owner
    if owner is None or owner is connection or (claim and claim == kernel.claim):
        return
    assert isinstance(owner, Connection)
    raise Refused("in_use", "another program owns the kernel", owner=_peer(owner.socket))


def _peer(end: socket.socket | TlsSocket) -> int | None:
    """Return the number of the process at the other end; None if unknown."""
    try:
        pid, _, _ = _PEER.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    except (AttributeError, OSError):
        return None
    return int(pid) or None
