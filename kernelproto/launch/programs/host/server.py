"""Server: the loop of the host."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from . import frames
from .channel import Channel
from .connection import Connection
from .guard import Guard
from .kernel import Kernel
from .requests import Requests
from .start import Starts

if TYPE_CHECKING:
    import ssl

    from .tls import Handshakes, TlsSocket

# More connections wait in the queue of the socket.
_MOST_CONNECTIONS = 4000

# A host that no program asks to start a kernel ends after this time.
_START_SECONDS = 10.0

# How long killed processes are waited for when the host ends, and how often they are looked at.
_KILL_SECONDS = 2.0
_REAP_SECONDS = 0.005

# How long not to accept connections when there are too few descriptors.
_SHORTAGE_SECONDS = 0.01


class Server:
    """The loop, which serves programs and kernels until there are none.

    Args:
        listener: the listening socket.
        folder: the folder of the host.
        tls: the context for a listener on tcp; None for one on a unix socket.
        patience: the seconds after which a host ends that no program asks to start a kernel.

    Attributes:
        folder: the same.
        kernels: all kernels, by id.
    """

    def __init__(
        self,
        listener: socket.socket,
        folder: str,
        *,
        tls: ssl.SSLContext | None = None,
        patience: float = _START_SECONDS,
    ) -> None:
        self.folder = folder
        self.kernels: dict[str, Kernel] = {}
        self._starts = Starts(self)
        self._requests = Requests(self, self._starts)
        self._listener = listener
        self._connections: set[Connection] = set()
        self._acknowledging: set[Connection] = set()  # those with acknowledgements to send
        self._unconnected: set[tuple[Kernel, Channel]] = set()
        self._ending: dict[str, list[tuple[Connection, int]]] = {}
        self._guard = Guard()
        self._deadline = time.monotonic() + patience
        self._is_stopped = False
        self._wake, woken = socket.socketpair()
        for end in (self._wake, woken, listener):
            end.setblocking(False)
        self._woken = woken
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._handshakes: Handshakes | None = None
        if tls is not None:
            from .tls import Handshakes  # ssl takes 10 ms

            self._handshakes = Handshakes(tls, self._selector, self._connect)
        self._selector.register(self._wake, selectors.EVENT_READ, self._woke)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until there is neither a kernel nor a program, or until ``stop`` is called."""
        while not self._is_stopped and (
            self.kernels
            or self._connections
            or not self._starts.is_idle
            or time.monotonic() < self._deadline
        ):
            for key, events in self._selector.select(self._timeout()):
                key.data(events)  # an earlier event may have closed this one's socket
            self._look(time.monotonic())

    def stop(self) -> None:
        """End the loop; a signal handler may call this."""
        self._is_stopped = True

    def close(self) -> None:
        """End all kernels, if the loop has failed or was stopped; end the watchdog."""
        running = [kernel for kernel in self.kernels.values() if kernel.ended is None]
        for kernel in running:
            kernel.process.signal(signal.SIGKILL)
        deadline = time.monotonic() + _KILL_SECONDS
        while running and time.monotonic() < deadline:
            running = [kernel for kernel in running if kernel.process.reap() is None]
            time.sleep(_REAP_SECONDS if running else 0)
        for kernel in list(self.kernels.values()):
            kernel.remove()
        self._starts.close()
        self._guard.close()

    def watch(self, kernel: Kernel) -> None:
        """Have the watchdog end a kernel, which is about to be started, together with the host."""
        self._guard.watch(kernel.watched())

    def forget(self, kernel: Kernel) -> None:
        """Tell the watchdog that the kernel is gone."""
        self._guard.forget(kernel.watched())

    def add(self, kernel: Kernel) -> None:
        """Serve a kernel that was started."""
        self.kernels[kernel.kernel_id] = kernel
        self._guard.started(kernel.watched(), kernel.process.pid, kernel.process.started)
        if kernel.output.pipe >= 0:
            self._selector.register(
                kernel.output.pipe, selectors.EVENT_READ, partial(self._read_output, kernel)
            )
        self._unconnected.update((kernel, channel) for channel in kernel.channels)

    def replace(self, owner: Any) -> None:
        """Close the connection of an owner that has connected again."""
        owner.disconnect({"kind": "replaced", "reason": "the owner has connected again"})
        self._update(owner)

    def end(self, kernel: Kernel, asked_by: tuple[Connection, int] | None = None) -> None:
        """Kill a kernel; remove the kernel once its process was reaped, and answer then."""
        waiting = self._ending.setdefault(kernel.kernel_id, [])
        if asked_by is not None:
            waiting.append(asked_by)
        if kernel.ended is None:
            kernel.process.signal(signal.SIGKILL)
        else:
            self._remove(kernel)

    def answer(self, connection: Connection, number: int, answer: dict[str, Any]) -> None:
        """Send an answer that a request has waited for, if the program is still connected."""
        if connection in self._connections:
            connection.answer(number, answer)
            connection.finish()
            connection.pump()
            self._update(connection)

    def register(self, end: socket.socket, events: int, serve: Any) -> None:
        """Call a function with the events of a socket."""
        self._selector.register(end, events, serve)

    def unregister(self, end: socket.socket) -> None:
        """Stop serving a socket."""
        self._selector.unregister(end)

    def _timeout(self) -> float | None:
        now = time.monotonic()
        times = [channel.retry_at for _, channel in self._unconnected]
        times += [each.due for each in self._acknowledging if each.due is not None]
        for kernel in self.kernels.values():
            due = kernel.due()
            if due is not None and kernel.kernel_id not in self._ending:
                times.append(due)
        if not self.kernels and not self._connections:
            times.append(self._deadline)
        if self._handshakes is not None:
            due = self._handshakes.due()
            times += [] if due is None else [due]
        return max(0.0, min(times) - now) if times else None

    def _look(self, now: float) -> None:
        """Do the work that has become due."""
        if self._handshakes is not None:
            self._handshakes.look(now)
        for connection in list(self._acknowledging):
            if connection.due is not None and now >= connection.due:
                connection.acknowledge()
                self._update(connection)
        for kernel, channel in list(self._unconnected):
            if kernel.ended is not None:
                self._unconnected.discard((kernel, channel))
            elif now >= channel.retry_at and channel.connect(now):
                self._unconnected.discard((kernel, channel))
                assert channel.socket is not None
                self._selector.register(
                    channel.socket,
                    selectors.EVENT_READ,
                    partial(self._serve_channel, kernel, channel),
                )
                self._flush_channel(kernel, channel)
        for kernel in list(self.kernels.values()):
            due = kernel.due()
            if due is None or now < due or kernel.kernel_id in self._ending:
                continue
            if kernel.is_forgotten(now):
                self.end(kernel)
            elif kernel.ended is not None:
                self._settle(kernel, now)

    def _accept(self, events: int) -> None:
        try:
            end, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(_SHORTAGE_SECONDS)
            return
        end.setblocking(False)
        if len(self._connections) >= _MOST_CONNECTIONS:
            end.close()
            return
        if self._handshakes is None:
            self._connect(end)
        else:
            self._handshakes.begin(end)

    def _connect(self, end: socket.socket | TlsSocket) -> None:
        connection = Connection(end, self._requests.answer)
        self._connections.add(connection)
        self._deadline = 0.0
        self._selector.register(end, selectors.EVENT_READ, partial(self._serve, connection))
        connection.flush()
        self._update(connection)

    def _serve(self, connection: Connection, events: int) -> None:
        if connection not in self._connections:
            return
        if events & selectors.EVENT_WRITE:
            connection.flush()
            connection.pump()
        if events & selectors.EVENT_READ and not connection.is_over:
            try:
                connection.receive()
            except Exception as error:  # a fault of the host must not end all kernels
                connection.disconnect({"kind": "internal", "reason": repr(error)})
        kernel = connection.kernel
        if kernel is not None:
            for channel in kernel.channels:
                if channel.wants_to_write:
                    self._flush_channel(kernel, channel)
        self._update(connection)

    def _serve_channel(self, kernel: Kernel, channel: Channel, events: int) -> None:
        if channel.socket is None:
            return
        alive = True
        if events & selectors.EVENT_WRITE:
            alive = channel.flush()
        if alive and events & selectors.EVENT_READ:
            alive = channel.receive()
        if not alive:
            self._disconnect(kernel, channel)
        else:
            self._watch(channel.socket, channel.wants_to_write)
        if kernel.owner is not None:
            kernel.owner.pump()
            kernel.owner.finish()
            self._update(kernel.owner)

    def _flush_channel(self, kernel: Kernel, channel: Channel) -> None:
        if channel.socket is not None:
            if channel.flush():
                self._watch(channel.socket, channel.wants_to_write)
            else:
                self._disconnect(kernel, channel)

    def _disconnect(self, kernel: Kernel, channel: Channel) -> None:
        now = time.monotonic()
        assert channel.socket is not None
        self._selector.unregister(channel.socket)
        channel.close(now)
        if kernel.ended is None:
            self._unconnected.add((kernel, channel))
        else:
            self._settle(kernel, now)

    def _settle(self, kernel: Kernel, now: float) -> None:
        connected = [each.socket for each in kernel.channels if each.socket is not None]
        kernel.settle(now)
        if kernel.over:
            for end in connected:
                with suppress(KeyError, ValueError):
                    self._selector.unregister(end)
            if kernel.owner is not None:
                self._update(kernel.owner)

    def _update(self, connection: Any) -> None:
        """Close a connection that is over; wait for room or time if something is unsent."""
        if connection not in self._connections:
            return
        if connection.due is None or connection.is_over:
            self._acknowledging.discard(connection)
        else:
            self._acknowledging.add(connection)
        if not connection.is_over:
            self._watch(connection.socket, connection.wants_to_write)
        else:
            self._connections.discard(connection)
            self._selector.unregister(connection.socket)
            connection.close(time.monotonic())

    def _watch(self, end: socket.socket | TlsSocket | None, to_write: bool) -> None:
        assert end is not None
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if to_write else 0)
        key = self._selector.get_key(end)
        if key.events != events:
            self._selector.modify(end, events, key.data)

    def _read_output(self, kernel: Kernel, events: int) -> None:
        if kernel.output.pipe >= 0 and not kernel.output.read():
            self._selector.unregister(kernel.output.pipe)
            kernel.output.close()

    def _woke(self, events: int) -> None:
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        self.reap()

    def reap(self) -> None:
        """Find the processes that have ended."""
        now = time.monotonic()
        for kernel in list(self.kernels.values()):
            if kernel.ended is not None:
                continue
            end = kernel.process.reap()
            if end is None:
                continue
            self._guard.ended(kernel.watched())
            kernel.note_exit(end, now)
            if kernel.output.pipe >= 0:
                self._read_output(kernel, selectors.EVENT_READ)
            if kernel.kernel_id in self._ending:
                self._remove(kernel)
            else:
                self._settle(kernel, now)
        self._guard.look()

    def _remove(self, kernel: Kernel) -> None:
        """Remove a kernel after its process was reaped, and answer the programs that have asked."""
        for channel in kernel.channels:
            if channel.socket is not None:
                self._selector.unregister(channel.socket)
            self._unconnected.discard((kernel, channel))
        if kernel.output.pipe >= 0:
            self._selector.unregister(kernel.output.pipe)
        del self.kernels[kernel.kernel_id]
        answer = {"ok": kernel.exit_message()}
        kernel.remove()
        self.forget(kernel)
        waiting = self._ending.pop(kernel.kernel_id, [])
        for connection, number in waiting:
            self.answer(connection, number, answer)
        owner = kernel.owner
        if isinstance(owner, Connection) and owner not in [each for each, _ in waiting]:
            owner.put(frames.pack_json(frames.EXITED, answer["ok"]))
            owner.flush()
            self._update(owner)
        kernel.owner = None


def listen(folder: str) -> socket.socket:
    """Return a listening socket in the folder of the host, which this process has locked."""
    path = os.path.join(folder, "socket")
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(path)
    listener.listen(128)
    return listener
