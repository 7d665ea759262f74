"""The audit log: log-ins, actions and WebSockets, with their user, address and outcome.

Each event is one record of the logger ``kernelproto.audit``: a line of ``name=value`` pairs in a
log of text, an object under ``audit`` in a log of JSON. A refusal has the level WARNING, any other
event INFO. Users, clients and kernels choose some of the values. Each value is cut to a bounded
length and quoted as JSON, with every control character escaped, so no value can begin a line.

Every event happens during a request. ``acting`` sets the user and the address.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from starlette.exceptions import HTTPException

from kernelproto.exceptions import (
    InvalidLaunchParameter,
    KernelProtoError,
    NoSuchKernel,
    PoolError,
)

AUDIT_LOGGER = "kernelproto.audit"

logger = logging.getLogger(AUDIT_LOGGER)

Event = Literal[
    "login",
    "kernel.start",
    "kernel.interrupt",
    "kernel.restart",
    "kernel.end",
    "websocket.open",
    "websocket.close",
]
Outcome = Literal["ok", "refused", "failed"]

_MOST_CHARACTERS = 200

# A value that needs no quotes.
_PLAIN = re.compile(r"[\w.:/@+-]+", re.ASCII)

# Errors that the caller can avoid.
_REFUSALS = (InvalidLaunchParameter, NoSuchKernel, PoolError)

_actor: ContextVar[Mapping[str, str]] = ContextVar("kernelproto.server.telemetry.audit")


@contextmanager
def acting(user: str | None, address: str | None) -> Generator[None]:
    """Name the user and the client's address for the events of the block.

    Args:
        user: the user; None while unknown.
        address: the client's address; None for a unix socket.
    """
    actor = {"address": address, "user": user}
    token = _actor.set({name: value for name, value in actor.items() if value is not None})
    try:
        yield
    finally:
        _actor.reset(token)


def audit(event: Event, outcome: Outcome, **fields: str | int | None) -> None:
    """Log an event.

    Args:
        event: the event.
        outcome: the outcome.
        fields: further facts; None values are omitted.
    """
    facts = {name: _short(value) for name, value in fields.items() if value is not None}
    actor = {name: _short(value) for name, value in _actor.get({}).items()}
    record = {"event": event, "outcome": outcome, **actor, **facts}
    text = " ".join(f"{name}={_quoted(value)}" for name, value in record.items())
    level = logging.WARNING if outcome == "refused" else logging.INFO
    logger.log(level, "%s", text, extra={"audit": record})


@contextmanager
def auditing(event: Event, **fields: str | None) -> Generator[None]:
    """Log an event at the end of the block, with the outcome of the block.

    Args:
        event: the event.
        fields: as for ``audit``.
    """
    try:
        yield
    except HTTPException as error:
        audit(event, "refused", **fields, reason=error.detail)
        raise
    except KernelProtoError as error:
        outcome: Outcome = "refused" if isinstance(error, _REFUSALS) else "failed"
        audit(event, outcome, **fields, reason=str(error).partition("\n")[0])
        raise
    except BaseException:
        audit(event, "failed", **fields)
        raise
    audit(event, "ok", **fields)


def _short(value: str | int) -> str | int:
    return value[:_MOST_CHARACTERS] if isinstance(value, str) else value


def _quoted(value: str | int) -> str:
    text = str(value)
    # JSON does not escape the control character DEL.
    return text if _PLAIN.fullmatch(text) else json.dumps(text).replace("\x7f", "\\u007f")
