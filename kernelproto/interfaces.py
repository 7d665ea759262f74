"""What the layers may expect of each other: every seam of the library as a ``typing.Protocol``.

A provider or manager from another package needs no base class; having these methods is enough.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias, TypedDict, runtime_checkable

import msgspec

from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame


class KernelAttributes(TypedDict, total=False):
    """What a provider tells about a kernel type; every key is optional.

    Keys:
        display_name: for people.
        language: the programming language, for example ``"python"``.
        argv: the command line with ``{connection_file}`` in it.
        env: environment variables the kernel gets.
        interrupt_mode: ``"signal"`` or ``"message"``.
        metadata: the kernelspec's own metadata.
        resource_dir: the folder with logos and other resources.
        resources: the paths of those that Jupyter knows, under its names for them, such as
            ``"logo-64x64"``, ``"logo-svg"``, ``"kernel.js"`` and ``"kernel.css"``.
        unavailable: why the kernel cannot be launched here; missing where it can.
    """

    display_name: str
    language: str
    argv: Sequence[str]
    env: Mapping[str, str]
    interrupt_mode: str
    metadata: Mapping[str, object]
    resource_dir: str
    resources: Mapping[str, str]
    unavailable: str


@runtime_checkable
class KernelManager(Protocol):
    """The handle on one running kernel process.

    Every method may be called at any time, by several tasks, also after the process has ended.
    ``kernel_id`` is another one for each launch.
    """

    kernel_id: str

    async def is_alive(self) -> bool:
        """Return whether the kernel's process runs."""
        ...

    async def wait(self) -> int | None:
        """Wait until the process has ended; return its exit status, None where it can't be known.

        A negative status is the number of the signal that ended it.
        """
        ...

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel and the processes it has started; a dead one ignores it."""
        ...

    async def interrupt(self) -> None:
        """Interrupt the running code.

        Raises:
            UnsupportedRequest: this kernel is interrupted by a message, not by a signal.
        """
        ...

    async def terminate(self) -> None:
        """Ask the process to end (SIGTERM)."""
        ...

    async def kill(self) -> None:
        """End the process and the ones it has started (SIGKILL)."""
        ...

    async def cleanup(self) -> None:
        """Remove everything the launch has made: files, sockets, what is left of the process.

        It may be called again, and by several tasks at once, and is not cancelled half-way.
        """
        ...


@runtime_checkable
class DescribesFailure(Protocol):
    """Optional part of a KernelManager: what error messages quote of the kernel's process."""

    command: Sequence[str]

    def output_tail(self) -> str:
        """Return the last lines that the process wrote to standard output and standard error."""
        ...


DeathCause: TypeAlias = Literal[
    "exit_status",
    "signal",
    "memory_limit",
    "cpu_limit",
    "open_files_limit",
    "processes_limit",
    "out_of_memory",
    "silence",
    "other",
    "unknown",
]


class DeathReason(str):
    """Why a process has ended, in words, together with the kind of the reason.

    Attributes:
        cause: the kind: a limit that the kernel had reached, the memory of the machine, a heartbeat
            that fell silent, or "other".
    """

    cause: DeathCause

    def __new__(cls, words: str, cause: DeathCause) -> DeathReason:
        """Return the words, with the kind of the reason."""
        reason = super().__new__(cls, words)
        reason.cause = cause
        return reason

    def __getnewargs__(self) -> tuple[str, DeathCause]:  # type: ignore[override]
        """Let the reason be copied and pickled, which exceptions are."""
        return str(self), self.cause


@runtime_checkable
class ExplainsDeath(Protocol):
    """Optional part of a KernelManager: why the process has ended, where more is known."""

    def death_reason(self) -> str | None:
        """Return the reason in words, such as a resource limit; None where none is known.

        A DeathReason tells its kind as well; any other string counts as "other".
        """
        ...


@runtime_checkable
class HasProcess(Protocol):
    """Optional part of a KernelManager: its kernel is a process of this machine.

    Attributes:
        pid: the number of the process.
    """

    pid: int


@runtime_checkable
class IsListed(Protocol):
    """Optional part of a KernelManager: other programs find its kernel, by an id."""

    def list_as(self, kernel_id: str) -> None:
        """Let them find it under the id of the Kernel, which outlives this process of it."""
        ...


@runtime_checkable
class MayLoseAddress(Protocol):
    """Optional part of a KernelManager: its kernel listens where others might have been first."""

    def address_was_taken(self) -> bool:
        """Return whether somebody else listens at one of the addresses that the kernel was given.

        A kernel of which this is true cannot become ready, and is launched again elsewhere.
        """
        ...


@runtime_checkable
class MayOutlive(Protocol):
    """Optional part of a KernelManager: its kernel may go on when this program does not."""

    async def detach(self) -> None:
        """Close what this program holds of the kernel, which goes on."""
        ...


@runtime_checkable
class BringsChannels(Protocol):
    """Optional part of a KernelManager: how to reach a kernel that has no zmq sockets."""

    open_channels: OpenChannels


@runtime_checkable
class KernelProvider(Protocol):
    """Finds kernel types and launches them."""

    id: str

    def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Iterate over the kernel types: their names without the provider's id, and attributes.

        A name is there once, has no slash, and is the same each time.
        """
        ...

    async def launch(
        self,
        name: str,
        /,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start a kernel of the type *name*; it need not be ready when this returns.

        Args:
            name: a name that find_kernels() gave.
            cwd: the kernel's working directory; None means the caller's.
            launch_params: ``env`` and ``transport`` have a meaning everywhere; the rest is the
                provider's own.

        Raises:
            NoSuchKernel: this provider has no such kernel type.
            InvalidLaunchParameter: a parameter is of the wrong kind, or the working directory
                cannot be entered.
            LaunchError: it could not be started; nothing is left of the attempt.
        """
        ...


@runtime_checkable
class TakesConfig(Protocol):
    """Optional part of a KernelProvider: what an application has been configured with."""

    def load_config(self, config: Mapping[str, object] | None) -> None:
        """Take the configuration for this provider; None where there is none for it."""
        ...


Deliver = Callable[[ChannelName, Sequence[Frame]], None]


class Channels(Protocol):
    """The five channels to one kernel, open."""

    async def send(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        """Send one message; waits while the channel's send buffer is full.

        Raises:
            ClientClosed: the channels have been closed.
        """
        ...

    def abandon(self) -> None:
        """Give up on the kernel, because there is none any more.

        Whoever waits to send gets ClientClosed at once, and closing delivers nothing more.
        """
        ...


class OpenChannels(Protocol):
    """Opens the channels to a kernel; ``transport.open_channels`` is the usual one."""

    def __call__(
        self,
        info: ConnectionInfo,
        deliver: Deliver,
        *,
        identity: bytes,
        topics: Sequence[bytes] = (b"",),
    ) -> AbstractAsyncContextManager[Channels]:
        """Open the channels for the block.

        Args:
            info: where the kernel listens, or will.
            deliver: called with the channel and the frames of every message that arrives, in order.
                It is a plain function and must neither block nor raise.
            identity: the routing identity; shell and stdin need the same.
            topics: the iopub subscriptions.
        """
        ...


class User(msgspec.Struct, frozen=True):
    """Somebody who uses a kernel server.

    Args:
        name: whose kernels are theirs.
        admin: whether they may see that others have kernels.
        groups: the groups that they are in, for limits of groups.
    """

    name: str
    admin: bool = False
    groups: frozenset[str] = frozenset()


class UserRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a request or a WebSocket handshake tells about who makes it.

    Args:
        headers: the HTTP headers, their names in lower case; of a repeated one the first.
        query: the parameters of the query string, likewise.
        peer: the address of who has connected; None where there is none, as for a unix socket.
    """

    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    peer: str | None = None


@runtime_checkable
class Authenticator(Protocol):
    """Tells who makes a request to a kernel server."""

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return who makes a request; None refuses it. It is asked for every single one.

        Raises:
            AuthenticatorUnavailable: it cannot find that out now. The request is told so.
        """
        ...
