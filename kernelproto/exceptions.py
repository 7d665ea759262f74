"""Every exception of kernelproto, in one tree.

::

    KernelProtoError
    |- ProtocolError
    |  |- LocalProtocolError            you broke a rule of the messaging specification
    |  `- RemoteProtocolError           the other side did
    |     |- MalformedMessage           frames that are no message
    |     |- InvalidSignature           the HMAC does not match: wrong key, or a forgery
    |     |- ReplayedMessage            a message that was received before
    |     `- ReplyLost                  the kernel finished an execution without a reply
    |- DiscoveryError
    |  |- NoSuchKernel (LookupError)    no provider has a kernel type of that name
    |  `- InvalidKernelSpec (ValueError)
    |- LaunchError
    |  |- KernelExitedEarly             the process ended before the kernel was ready
    |  |- KernelNotReady (TimeoutError)
    |  `- InvalidLaunchParameter (ValueError)
    |- KernelDied                       the kernel's process is gone
    |  `- KernelRestarted               and another one takes its place
    |- ClientClosed                     by us, in an orderly way
    |- ExecutionError                   the user's code failed; raise_for_error() raises it
    |  `- ExecutionTimeout (TimeoutError)  it ran too long and was interrupted
    |- KernelUnresponsive (TimeoutError)   an interrupt did not end the code
    |- OutputOverflow                   more output than the stated bound was left unread
    |- UnsupportedRequest               the kernel does not know this request
    |- WrongProcess                     an object of the parent was used in a forked child
    |- WrongEventLoop                   an object of one event loop was used in another one
    |- PoolError                        a KernelPool does not do what it was asked for
    |  |- PoolFull                      every kernel is in use, and no more are allowed
    |  `- QuotaExceeded                 the user has as many kernels as allowed
    |- NotebookError                    a notebook cannot be executed
    |  |- InvalidNotebook (ValueError)  it is no notebook, or cannot be written as one
    |  |- InvalidParameter (ValueError) there is no way to write it in the notebook's language
    |  `- CellTimeout (TimeoutError)    a cell took longer than allowed
    |- InvalidSettings (ValueError)     a kernel server cannot be set up like that
    `- AuthenticatorUnavailable         who somebody is cannot be found out, for now

Each takes its message first and keeps its facts as keyword attributes, so that every one of them
can be copied and pickled: a failure is handed to many waiting tasks, each of which raises a copy of
its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

ErrorT = TypeVar("ErrorT", bound=BaseException)


class KernelProtoError(Exception):
    """Anything that kernelproto raises by itself."""


class ProtocolError(KernelProtoError):
    """A message breaks the Jupyter messaging specification."""


class LocalProtocolError(ProtocolError):
    """This side was asked to do what the specification does not allow."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the specification does not allow."""


class MalformedMessage(RemoteProtocolError):
    """Received frames are no message: wrong shape, too large, or undecodable JSON."""


class InvalidSignature(RemoteProtocolError):
    """A received message carries a signature that the connection's key did not make."""


class ReplayedMessage(RemoteProtocolError):
    """A message with this signature was received before."""


class ReplyLost(RemoteProtocolError):
    """The kernel has finished an execution and not replied, so its outcome is unknown.

    Attributes:
        result: an ExecutionResult with the outputs that were received.
    """

    def __init__(self, message: str, *, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class DiscoveryError(KernelProtoError):
    """A kernel type cannot be found or described."""


class NoSuchKernel(DiscoveryError, LookupError):
    """No provider has a kernel type of this name.

    Attributes:
        name: the kernel type that was asked for.
        available: the kernel types there are, nearest to *name* first.
    """

    def __init__(self, message: str, *, name: str = "", available: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.available = tuple(available)


class InvalidKernelSpec(DiscoveryError, ValueError):
    """A ``kernel.json`` cannot be used.

    Attributes:
        path: the file.
        key: the offending key, or None when the file as a whole is unreadable.
    """

    def __init__(self, message: str, *, path: str = "", key: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.key = key


class LaunchError(KernelProtoError):
    """A kernel could not be started."""


class KernelExitedEarly(LaunchError):
    """The kernel's process ended before the kernel was ready.

    Attributes:
        command: the command line that was run.
        returncode: its exit status, negative for a signal, None where it cannot be known or where
            the command could not be run at all.
        stderr: the tail of what it wrote to standard output and standard error.
    """

    def __init__(
        self,
        message: str,
        *,
        command: Sequence[str] = (),
        returncode: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(message)
        self.command = tuple(command)
        self.returncode = returncode
        self.stderr = stderr


class KernelNotReady(LaunchError, TimeoutError):
    """The kernel did not become ready within the startup deadline.

    Attributes:
        phase: what it was waiting for when the time was up.
        seconds: how long it was waited for.
        stderr: the tail of what the kernel's process wrote, where there is one.
    """

    def __init__(
        self, message: str, *, phase: str = "", seconds: float = 0.0, stderr: str = ""
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.seconds = seconds
        self.stderr = stderr


class InvalidLaunchParameter(LaunchError, ValueError):
    """A launch parameter is unknown, missing or of the wrong kind."""


class KernelDied(KernelProtoError):
    """The kernel's process is gone; what was in flight will never be answered.

    Attributes:
        returncode: its exit status, negative for a signal, None where it cannot be known.
        reason: why, in words, where more is known: a resource limit, a silent heartbeat.
    """

    def __init__(
        self, message: str, *, returncode: int | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.returncode = returncode
        self.reason = reason


class KernelRestarted(KernelDied):
    """The kernel's process is gone and another one takes its place; ask again.

    What was in flight will never be answered, and what the kernel had in memory is lost.
    """


class ClientClosed(KernelProtoError):
    """The client was closed from this side.

    Attributes:
        ended: how a KernelPool ended the kernel, as in ``KernelPool.counts``: "evicted", "culled",
            "expired", "released" or "lost"; None if no pool has.
    """

    def __init__(self, message: str, *, ended: str | None = None) -> None:
        super().__init__(message)
        self.ended = ended


class ExecutionError(KernelProtoError):
    """The user's code raised an exception in the kernel.

    Attributes:
        ename: the exception's name.
        evalue: its text.
        traceback: its traceback, one entry a frame, with the kernel's ANSI colours.
    """

    def __init__(
        self,
        message: str,
        *,
        ename: str = "",
        evalue: str = "",
        traceback: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.ename = ename
        self.evalue = evalue
        self.traceback = tuple(traceback)


class ExecutionTimeout(ExecutionError, TimeoutError):
    """Code ran longer than its timeout. It was interrupted, or the kernel was restarted.

    Attributes:
        seconds: the timeout.
        result: an ExecutionResult, as far as the execution has come.
        restarted: whether the kernel was restarted, because the interrupt did not end the code.
    """

    def __init__(
        self,
        message: str,
        *,
        seconds: float = 0.0,
        result: Any = None,
        restarted: bool = False,
        ename: str = "",
        evalue: str = "",
        traceback: Sequence[str] = (),
    ) -> None:
        super().__init__(message, ename=ename, evalue=evalue, traceback=traceback)
        self.seconds = seconds
        self.result = result
        self.restarted = restarted


class KernelUnresponsive(KernelProtoError, TimeoutError):
    """Code ran longer than its timeout, and an interrupt has not ended it. It still runs.

    Attributes:
        seconds: how long after the first interrupt the code still ran.
        result: an ExecutionResult with the outputs that were received.
    """

    def __init__(self, message: str, *, seconds: float = 0.0, result: Any = None) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.result = result


class OutputOverflow(KernelProtoError):
    """More output arrived than was read and than the bound allows to keep.

    Attributes:
        discarded_messages: how many outputs were not kept.
        discarded_bytes: their size in bytes.
    """

    def __init__(
        self, message: str, *, discarded_messages: int = 0, discarded_bytes: int = 0
    ) -> None:
        super().__init__(message)
        self.discarded_messages = discarded_messages
        self.discarded_bytes = discarded_bytes


class UnsupportedRequest(KernelProtoError):
    """The kernel does not implement this request."""


class WrongProcess(KernelProtoError):
    """A kernel, a client or a connection was used in a fork of the process that it belongs to.

    Attributes:
        pid: the process that it belongs to.
    """

    def __init__(self, message: str, *, pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid


class WrongEventLoop(KernelProtoError):
    """A kernel or a client was used in another event loop than the one that has opened it."""


class PoolError(KernelProtoError):
    """A KernelPool cannot do, or does not allow, what it was asked for."""


class PoolFull(PoolError):
    """A KernelPool has as many kernels as allowed, and none of them is idle.

    Attributes:
        limit: how many it may have.
    """

    def __init__(self, message: str, *, limit: int = 0) -> None:
        super().__init__(message)
        self.limit = limit


class QuotaExceeded(PoolError):
    """A user has as many kernels of a KernelPool as allowed.

    Attributes:
        limit: how many that is.
    """

    def __init__(self, message: str, *, limit: int = 0) -> None:
        super().__init__(message)
        self.limit = limit


class NotebookError(KernelProtoError):
    """A notebook cannot be executed, or not to its end."""


class InvalidNotebook(NotebookError, ValueError):
    """What should be a notebook is none, or what was put into one does not belong there."""


class InvalidParameter(NotebookError, ValueError):
    """A parameter of a notebook cannot be written in the notebook's language."""


class CellTimeout(NotebookError, TimeoutError):
    """A cell of a notebook took longer than allowed.

    Attributes:
        index: its position among all cells of the notebook, from 0.
        seconds: how long it ran.
    """

    def __init__(self, message: str, *, index: int = 0, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.index = index
        self.seconds = seconds


class InvalidSettings(KernelProtoError, ValueError):
    """What a kernel server was told cannot be used; the message names the key and the place."""


class AuthenticatorUnavailable(KernelProtoError):
    """An Authenticator cannot find out who somebody is, for now: nobody new is let in."""


def fresh(error: ErrorT) -> ErrorT:
    """Return a copy of *error* without a traceback, to be raised in one of many waiting tasks.

    A foreign exception that cannot be copied is returned itself.
    """
    try:
        again = copy.copy(error)
    except Exception:
        return error
    again.__cause__ = error.__cause__
    if hasattr(error, "__notes__"):
        again.__notes__ = list(error.__notes__)  # a note on one is no note on all
    return again
