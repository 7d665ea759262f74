"""Every exception of kernelproto, in one tree.

    KernelProtoError
    |- ProtocolError
    |  |- LocalProtocolError            you broke a rule of the messaging specification
    |  `- RemoteProtocolError           the other side did
    |     |- MalformedMessage           the frames are not a message
    |     |- InvalidSignature           the HMAC does not match: wrong key, or a forgery
    |     |- ReplayedMessage            the message was received before
    |     `- ReplyLost                  the kernel finished an execution without a reply
    |- DiscoveryError
    |  |- KernelInUse                   another program owns the kernel
    |  |- NoSuchKernel (LookupError)    no provider has a kernel type of that name
    |  `- InvalidKernelSpec (ValueError)
    |- LaunchError
    |  |- KernelExitedEarly             the process ended before the kernel was ready
    |  |- KernelNotReady (TimeoutError)
    |  |- IPykernelMissing              an environment has no ipykernel
    |  `- InvalidLaunchParameter (ValueError)
    |- KernelDied                       the kernel's process has ended
    |  `- KernelRestarted               ... and a new process takes its place
    |- ClientClosed                     this program closed the client or ended the kernel
    |- ExecutionError                   the user's code failed; raise_for_error() raises it
    |  `- ExecutionTimeout (TimeoutError)  the code ran too long and was interrupted
    |- KernelUnresponsive (TimeoutError)   an interrupt did not end the code
    |- KernelUnreachable (TimeoutError)  the connection to a kernel that may run is lost
    |- OutputOverflow                   more output than the stated bound was left unread
    |- UnsupportedRequest               the kernel does not know this request
    |- WrongProcess                     an object of the parent was used in a forked child
    |- WrongEventLoop                   an object of one event loop was used in another one
    |- PoolError                        a KernelPool refuses a request
    |  |- PoolFull                      every kernel is in use, and no more are allowed
    |  `- QuotaExceeded                 the user has as many kernels as allowed
    |- NotebookError                    a notebook cannot be executed
    |  |- InvalidNotebook (ValueError)  it breaks the notebook format
    |  |- InvalidParameter (ValueError) a parameter cannot be written in the notebook's language
    |  `- CellTimeout (TimeoutError)    a cell took longer than allowed
    |- InvalidSettings (ValueError)     a kernel server cannot use its settings
    |- RegistryError                  a registry of kernels cannot be read or written
    `- AuthenticatorUnavailable         a user cannot be authenticated for now

Optional keywords are kept as attributes, so that an exception can be copied and pickled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

ErrorT = TypeVar("ErrorT", bound=BaseException)


class KernelProtoError(Exception):
    """The base class of all exceptions of kernelproto."""


class ProtocolError(KernelProtoError):
    """A message breaks the Jupyter messaging specification."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something that the specification does not allow."""


class RemoteProtocolError(ProtocolError):
    """The other side sent something that the specification does not allow."""


class MalformedMessage(RemoteProtocolError):
    """Received frames are not a message: wrong shape, too large, or undecodable JSON."""


class InvalidSignature(RemoteProtocolError):
    """The signature of a received message does not match the connection's key."""


class ReplayedMessage(RemoteProtocolError):
    """A message with this signature was received before."""


class ReplyLost(RemoteProtocolError):
    """The kernel went on without a reply to a request, so the outcome is unknown.

    Attributes:
        result: an ExecutionResult with the outputs so far; None for other requests than executions.
    """

    def __init__(self, message: str, *, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class DiscoveryError(KernelProtoError):
    """A kernel type cannot be found or described."""


class KernelInUse(DiscoveryError):
    """A kernel cannot be adopted, because a running program owns it.

    Attributes:
        pid: the process id of that program, on the machine that the message names.
    """

    def __init__(self, message: str, *, pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid


class NoSuchKernel(DiscoveryError, LookupError):
    """No provider has a kernel type of this name.

    Attributes:
        name: the kernel type that was asked for.
        available: the available kernel types, nearest to *name* first.
    """

    def __init__(self, message: str, *, name: str = "", available: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.name = name
        self.available = tuple(available)


class InvalidKernelSpec(DiscoveryError, ValueError):
    """A ``kernel.json`` cannot be used.

    Attributes:
        path: the file.
        key: the invalid key; None if the whole file cannot be read.
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
        returncode: the exit status, negative for a signal; None if unknown or never started.
        stderr: the last lines that the process wrote to standard output and standard error.
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
        phase: the phase that was not completed; "queue" if ``Timeouts.queue`` was over.
        seconds: the limit that was exceeded.
        stderr: the last lines that the kernel's process wrote, if there is a process.
    """

    def __init__(
        self, message: str, *, phase: str = "", seconds: float = 0.0, stderr: str = ""
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.seconds = seconds
        self.stderr = stderr


class IPykernelMissing(LaunchError):
    """A Python environment cannot run kernels, because ipykernel is not installed there.

    Attributes:
        prefix: the folder of the environment.
        command: the command line that installs ipykernel.
    """

    def __init__(self, message: str, *, prefix: str = "", command: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.prefix = prefix
        self.command = tuple(command)


class InvalidLaunchParameter(LaunchError, ValueError):
    """A launch parameter is unknown, missing or of the wrong kind."""


class KernelDied(KernelProtoError):
    """The kernel's process has ended; pending requests get no reply.

    Attributes:
        returncode: the exit status, negative for a signal; None if unknown.
        reason: the reason in words, such as a resource limit; None if unknown.
    """

    def __init__(
        self, message: str, *, returncode: int | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.returncode = returncode
        self.reason = reason


class KernelRestarted(KernelDied):
    """The process has ended, and a new one without its variables takes its place: send again."""


class ClientClosed(KernelProtoError):
    """This program closed the client or ended the kernel.

    Attributes:
        ended: the end by a KernelPool: "evicted", "culled", "expired", "released", "lost" or None.
        goes_on: whether the kernel runs on without this program.
    """

    def __init__(self, message: str, *, ended: str | None = None, goes_on: bool = False) -> None:
        super().__init__(message)
        self.ended = ended
        self.goes_on = goes_on


class ExecutionError(KernelProtoError):
    """The user's code raised an exception in the kernel.

    Attributes:
        ename: the exception's name.
        evalue: the exception's text.
        traceback: the traceback, one entry a frame, with the kernel's ANSI colours.
    """

    def __init__(
        self, message: str, *, ename: str = "", evalue: str = "", traceback: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.ename = ename
        self.evalue = evalue
        self.traceback = tuple(traceback)


class ExecutionTimeout(ExecutionError, TimeoutError):
    """Code ran longer than its timeout, and was interrupted, or the kernel was restarted.

    Attributes:
        seconds: the timeout.
        result: an ExecutionResult with the outputs so far.
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
    """Code ran longer than its timeout and still runs after an interrupt.

    Attributes:
        seconds: how long the code has run since the first interrupt.
        result: an ExecutionResult with the outputs that were received.
    """

    def __init__(self, message: str, *, seconds: float = 0.0, result: Any = None) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.result = result


class KernelUnreachable(KernelProtoError, TimeoutError):
    """The connection to the kernel was not back in time; the kernel may still run."""


class OutputOverflow(KernelProtoError):
    """The unread outputs exceeded the limit, and some were discarded.

    Attributes:
        discarded_messages: the number of discarded outputs.
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
    """A kernel, a client or a connection of the parent process was used in a forked child.

    Attributes:
        pid: the process that the object belongs to.
    """

    def __init__(self, message: str, *, pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid


class WrongEventLoop(KernelProtoError):
    """A kernel or a client was used outside its event loop."""


class PoolError(KernelProtoError):
    """A KernelPool refuses a request.

    Attributes:
        limit: the maximum number of kernels, if that is the reason; otherwise 0.
    """

    def __init__(self, message: str, *, limit: int = 0) -> None:
        super().__init__(message)
        self.limit = limit


class PoolFull(PoolError):
    """A KernelPool has as many kernels as allowed, and none of them is idle."""


class QuotaExceeded(PoolError):
    """A user has as many kernels of a KernelPool as allowed."""


class NotebookError(KernelProtoError):
    """A notebook cannot be executed, or not completely."""


class InvalidNotebook(NotebookError, ValueError):
    """A notebook, or an addition to a notebook, breaks the notebook format."""


class InvalidParameter(NotebookError, ValueError):
    """A parameter of a notebook cannot be written in the notebook's language."""


class CellTimeout(NotebookError, TimeoutError):
    """A cell of a notebook took longer than allowed.

    Attributes:
        index: the position among all cells of the notebook, from 0.
        seconds: how long the cell ran.
    """

    def __init__(self, message: str, *, index: int = 0, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.index = index
        self.seconds = seconds


class InvalidSettings(KernelProtoError, ValueError):
    """A setting of a kernel server is invalid; the message names the key and the source."""


class RegistryError(KernelProtoError):
    """A registry of kernels cannot be read or written; nothing was changed."""


class AuthenticatorUnavailable(KernelProtoError):
    """An Authenticator cannot authenticate users for now, so new requests are refused."""


def fresh(error: ErrorT) -> ErrorT:
    """Return a copy of *error* for one of many tasks to raise; *error* if no copy is possible."""
    try:
        again = copy.copy(error)
    except Exception:
        return error
    again.__cause__ = error.__cause__
    if hasattr(error, "__notes__"):
        again.__notes__ = list(error.__notes__)  # notes are for one copy only
    return again
