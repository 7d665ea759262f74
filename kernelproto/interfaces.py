"""The interfaces between the layers, each a ``typing.Protocol``.

A provider or manager from another package needs these methods, but no base class.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias, TypedDict, runtime_checkable

import msgspec

from kernelproto.concurrency.reachability import MayBecomeUnreachable as MayBecomeUnreachable
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame


class KernelAttributes(TypedDict, total=False):
    """The provider's description of a kernel type; every key is optional.

    Keys:
        display_name: the name that frontends show.
        language: the programming language, for example ``"python"``.
        argv: the command line, which contains ``{connection_file}``.
        env: environment variables of the kernel.
        interrupt_mode: ``"signal"`` or ``"message"``.
        metadata: the kernelspec's own metadata.
        resource_dir: the folder with logos and other resources.
        resources: the paths of the resources that Jupyter has names for, by name:
            ``"logo-64x64"``, ``"logo-svg"``, ``"kernel.js"``, ``"kernel.css"``.
        unavailable: the reason why the kernel cannot be launched here; missing otherwise.
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

    Every method may be called at any time, by several tasks, even after the end of the process.
    Each launch gets a new ``kernel_id``.
    """

    kernel_id: str

    async def is_alive(self) -> bool:
        """Return whether the kernel's process runs."""
        ...

    async def wait(self) -> int | None:
        """Wait until the process has ended, and return the exit status; None if unknown.

        A negative status is the number of the signal that ended the process.
        """
        ...

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel and its child processes; do nothing if the kernel is dead."""
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
        """End the process and its child processes (SIGKILL)."""
        ...

    async def cleanup(self) -> None:
        """Remove everything that the launch has made: files, sockets and processes.

        ``cleanup`` may be called again, and by several tasks at once. Cancellation does not stop
        it.
        """
        ...


@runtime_checkable
class DescribesFailure(Protocol):
    """Optional part of a KernelManager: error messages quote the kernel's process."""

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
    "disk_quota",
    "seccomp",
    "out_of_memory",
    "silence",
    "other",
    "unknown",
]


class DeathReason(str):
    """The reason in words why a process has ended, and the kind of the reason.

    Attributes:
        cause: the kind, such as a limit that the kernel reached, the machine's memory, a silent
            heartbeat, or "other".
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
    """Optional part of a KernelManager: the reason why the process has ended, if known."""

    def death_reason(self) -> str | None:
        """Return the reason in words, such as a resource limit; None if unknown.

        A DeathReason also has the kind of the reason; any other string counts as "other".
        """
        ...


@runtime_checkable
class HasProcess(Protocol):
    """Optional part of a KernelManager: the kernel is a process of this machine.

    Attributes:
        pid: the process id.
    """

    pid: int


@runtime_checkable
class IsListed(Protocol):
    """Optional part of a KernelManager: other programs can find the kernel by an id."""

    def list_as(self, kernel_id: str) -> None:
        """List the kernel under *kernel_id*, which stays the same across restarts."""
        ...


@runtime_checkable
class MayLoseAddress(Protocol):
    """Optional part of a KernelManager: another program may take the kernel's address."""

    def address_was_taken(self) -> bool:
        """Return whether another program listens at one of the kernel's addresses.

        In this case the kernel cannot become ready, and is launched again at other addresses.
        """
        ...


@runtime_checkable
class MayOutlive(Protocol):
    """Optional part of a KernelManager: the kernel may outlive this program."""

    async def detach(self) -> None:
        """Release the resources of this program for the kernel, which goes on."""
        ...


class KernelHandle(msgspec.Struct, frozen=True, kw_only=True):
    """The data with which a program adopts a running kernel; can be written as JSON.

    The handle has no keys: they are read where the kernel runs.

    Args:
        host: the id of the host or provider that adopts the kernel; ``"local"`` for a process of
            this machine.
        kernel_type: ``provider/name``, for a restart.
        kernel_id: the id under which other programs find the kernel.
        place: the data that only the host reads, with values that JSON has.
    """

    host: str
    kernel_type: str
    kernel_id: str
    place: Mapping[str, object]

    def to_json(self) -> str:
        """Return the handle as JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> KernelHandle:
        """Return the handle that ``to_json`` has written.

        Raises:
            ValueError: the text is not a handle.
        """
        return msgspec.json.decode(text, type=cls)


@runtime_checkable
class HasHandle(Protocol):
    """Optional part of a KernelManager: another program can take the kernel over by a handle."""

    def handle(self) -> KernelHandle | None:
        """Return the handle; None if the kernel ends with this program."""
        ...


@runtime_checkable
class Adopts(Protocol):
    """Optional part of a KernelProvider: adopts running kernels.

    A kernel has one owner at a time: the program that has started or adopted the kernel, until that
    program calls ``detach``, ends or crashes.
    """

    async def adopt(self, handle: KernelHandle, /) -> tuple[ConnectionInfo, KernelManager]:
        """Adopt a running kernel, so that this program owns the kernel.

        Args:
            handle: a handle that a manager of this provider gave to any program.

        Raises:
            KernelInUse: a running program owns the kernel, perhaps this one.
            DiscoveryError: the kernel has ended, or cannot be adopted; the owner is unchanged.
        """
        ...


@runtime_checkable
class BringsChannels(Protocol):
    """Optional part of a KernelManager: opens the channels of a kernel without zmq sockets."""

    open_channels: OpenChannels


@runtime_checkable
class KernelProvider(Protocol):
    """Finds kernel types and launches them."""

    id: str

    def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Iterate over the kernel types: names without the provider's id, and attributes.

        Each name occurs once and is the same each time. A name that begins with the place of the
        kernel type, such as ``node7/python3``, has a slash between the parts.
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
        """Start a kernel of the type *name*; the kernel need not be ready when this returns.

        Args:
            name: a name that find_kernels() gave.
            cwd: the kernel's working directory; None means the caller's.
            launch_params: every provider knows ``env`` and ``transport``; the provider defines the
                rest.

        Raises:
            NoSuchKernel: this provider has no such kernel type.
            InvalidLaunchParameter: a parameter has the wrong type, or the working directory cannot
                be entered.
            LaunchError: the kernel could not be started; nothing is left of the attempt.
        """
        ...


@runtime_checkable
class TakesConfig(Protocol):
    """Optional part of a KernelProvider: takes the application's configuration."""

    def load_config(self, config: Mapping[str, object] | None) -> None:
        """Take the configuration of this provider; None if there is none."""
        ...


Deliver = Callable[[ChannelName, Sequence[Frame]], None]


class Channels(Protocol):
    """The five open channels to one kernel."""

    async def send(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        """Send one message; wait while the channel's send buffer is full.

        Raises:
            ClientClosed: the channels have been closed.
        """
        ...

    def abandon(self) -> None:
        """Discard unsent messages, because the kernel has ended.

        Pending sends raise ClientClosed at once, and closing the channels sends nothing more.
        """
        ...


class OpenChannels(Protocol):
    """Opens the channels to a kernel, as ``transport.open_channels`` does for zmq."""

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
            info: the addresses that the kernel listens at, now or later.
            deliver: called with the channel and the frames of each message that arrives, in order.
                The function must neither block nor raise.
            identity: the routing identity, the same for shell and stdin.
            topics: the iopub subscriptions.
        """
        ...


class User(msgspec.Struct, frozen=True):
    """A user of a kernel server.

    Args:
        name: identifies the user, the owner of the kernels started under this name.
        admin: whether the user may see the kernels of others.
        groups: the user's groups, for limits by group.
    """

    name: str
    admin: bool = False
    groups: frozenset[str] = frozenset()


class UserRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an HTTP request or WebSocket handshake that identify the user.

    Args:
        headers: the HTTP headers, with names in lower case; the first of a repeated header.
        query: the parameters of the query string; the first of a repeated parameter.
        peer: the address of the client; None if there is none, as for a unix socket.
    """

    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    peer: str | None = None


@runtime_checkable
class Authenticator(Protocol):
    """Finds the user of a request to a kernel server."""

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user of a request; None refuses the request. Called for every request.

        Raises:
            AuthenticatorUnavailable: the user cannot be found out now; the client gets an error.
        """
        ...
