"""Exceptions of kernelproto as JSON, and back. Pure."""

from __future__ import annotations

import kernelproto.exceptions as exceptions
from kernelproto.exceptions import KernelProtoError
from kernelproto.remote.events import Failure

# With these, an execution can end. The attributes are keyword arguments of the exception.
_ATTRIBUTES: dict[type[KernelProtoError], tuple[str, ...]] = {
    exceptions.KernelRestarted: ("returncode", "reason"),
    exceptions.KernelDied: ("returncode", "reason"),
    exceptions.ClientClosed: ("ended",),
    exceptions.ExecutionTimeout: ("seconds", "restarted"),
    exceptions.KernelUnresponsive: ("seconds",),
    exceptions.LaunchError: (),
    exceptions.MalformedMessage: (),
    exceptions.ReplyLost: (),
    exceptions.UnsupportedRequest: (),
}
_TYPES = {kind.__name__: kind for kind in _ATTRIBUTES}


def failure_of(error: KernelProtoError, message: str) -> Failure:
    """Return an exception as JSON.

    Args:
        error: the exception.
        message: the text for the client.
    """
    for kind, attributes in _ATTRIBUTES.items():
        if isinstance(error, kind):
            values = {name: getattr(error, name) for name in attributes}
            return Failure(kind.__name__, message, values)
    return Failure(KernelProtoError.__name__, message)


def error_of(failure: Failure) -> KernelProtoError:
    """Return the exception; KernelProtoError for an unknown type."""
    kind = _TYPES.get(failure.type)
    if kind is None:
        return KernelProtoError(failure.message)
    known = {name: failure.details[name] for name in _ATTRIBUTES[kind] if name in failure.details}
    return kind(failure.message, **known)
