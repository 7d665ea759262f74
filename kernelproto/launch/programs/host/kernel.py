"""Kernel: one kernel of the host, with channels, log and owner."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from ..watchdog import WatchedKernel, kill_members, remove_files, remove_record
from . import frames
from .channel import Channel
from .message_log import Limits, MessageLog
from .process import Exit, Output, Process

_SOCKET_TYPES = {
    frames.SHELL: b"DEALER",
    frames.IOPUB: b"SUB",
    frames.STDIN: b"DEALER",
    frames.CONTROL: b"DEALER",
    frames.HB: b"DEALER",
}

# The suffix of a draft of a record, see address/paths.py.
DRAFT = ".new"

# The time for reading the last messages of an ended process from the sockets. A child of the kernel
# may hold them open.
_REST_SECONDS = 1.0

# The time that an ended kernel waits for an owner, unless the linger time is shorter.
_ENDED_SECONDS = 600.0


class Owner(Protocol):
    """The connection of the program that owns a kernel."""

    def pump(self) -> None:
        """Send the received messages of the kernel."""
        ...

    def beat(self, message: bytes) -> None:
        """Send the answer to a heartbeat."""
        ...

    def passed(self, channel: int, number: int, size: int) -> None:
        """Acknowledge a message of *size* bytes that was passed to the kernel, after a while."""
        ...

    def finish(self) -> None:
        """Send everything that waits, and acknowledgements that must not wait any longer."""
        ...

    def disconnect(self, error: dict[str, Any]) -> None:
        """Tell the program why the connection is closed, and close the connection."""
        ...


class Place:
    """The paths of a kernel's files.

    Args:
        folder: the folder of the log; by default also of all other files.
        paths: "connection_file", "sockets" (a folder) and "record", each of which may be missing.
    """

    def __init__(self, folder: str, paths: Mapping[str, str]) -> None:
        self.folder = folder
        self.connection_file = paths.get("connection_file") or os.path.join(folder, "kernel.json")
        self.sockets = paths.get("sockets") or folder
        self.record = paths.get("record")

    @property
    def longest_socket_path(self) -> int:
        """The length of the path of a socket, in bytes."""
        return len(os.fsencode(os.path.join(self.sockets, "kernel-1")))

    @property
    def files(self) -> list[bytes]:
        """The files and folders to remove with the kernel."""
        draft = None if self.record is None else self.record + DRAFT
        paths = dict.fromkeys((draft, self.connection_file, self.sockets, self.folder))
        return [os.fsencode(path) for path in paths if path is not None]


class Kernel:
    """One kernel.

    Args:
        kernel_id: a UUID.
        place: the files; the folders exist.
        limits: the limits of the log.
        linger: the seconds without an owner after which the kernel is ended; None means never.

    Attributes:
        process: the process; set at the start.
        output: the output of the process; set before.
        channels: the channels, in the order of frames.CHANNELS.
        log: the messages of the kernel.
        owner: the connection of the owner; None without an owner.
        claim: the secret of the owner, or of the last one.
        attachment: the id in which the owner numbers messages.
        taken: for each channel the number of the owner's last message that was taken in.
        passed: for each channel the number of the owner's last message that the kernel has.
        free_since: the time since which there is no owner.
        ended: how the process has ended; None while running.
        over: whether no more messages can come from the kernel.
        removed: whether the files were removed.
        info: the contents of the connection file.
        facts: data for later owners, from the program that started the kernel.
    """

    def __init__(
        self, kernel_id: str, place: Place, limits: Limits, linger: float | None, now: float
    ) -> None:
        self.kernel_id = kernel_id
        self.place = place
        self.linger = linger
        self.process: Process
        self.output: Output
        self.log = MessageLog(place.folder, limits)
        self.owner: Owner | None = None
        self.claim = ""
        self.attachment = ""
        self.taken = [0] * len(frames.CHANNELS)
        self.passed = list(self.taken)
        self.free_since = now
        self.ended: Exit | None = None
        self.over = False
        self.removed = False
        self.info: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self._ended_at = 0.0
        self._record: dict[str, Any] = {}
        identity = secrets.token_hex(16).encode()
        self.channels = [
            Channel(
                os.path.join(place.sockets, f"kernel-{number + 1}"),
                socket_type,
                identity,
                limits.largest,
                partial(self._arrived, number),
                partial(self._was_passed, number),
            )
            for number, socket_type in _SOCKET_TYPES.items()
        ]

    @property
    def connection(self) -> dict[str, Any]:
        """The addresses in the connection file."""
        ports = {f"{name}_port": number + 1 for number, name in enumerate(frames.CHANNELS)}
        return {"transport": "ipc", "ip": os.path.join(self.place.sockets, "kernel"), **ports}

    @property
    def listed_as(self) -> str:
        """The id in the record under which programs find the kernel; "" for that of the kernel."""
        return str(self._record.get("listed_as") or "")

    def watched(self) -> WatchedKernel:
        """Return the kernel for the watchdog, before the start of the process."""
        record = os.fsencode(self.place.record or os.path.join(self.place.folder, "record"))
        return WatchedKernel(self.kernel_id.encode(), 0, "", record, self.place.files)

    def write_record(self, changes: Mapping[str, Any]) -> None:
        """Write the record for other programs, if there is to be one.

        Args:
            changes: changed fields of the record, see leftovers/records.py.

        Raises:
            OSError: the record cannot be written.
        """
        self._record.update(changes)
        path = self.place.record
        if path is None or self.over:
            return
        draft = path + DRAFT
        for _ in range(100):
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(path), mode=0o700)
            # Not found: another kernel has ended and removed the folder meanwhile.
            with suppress(FileNotFoundError):
                write_file(draft, json.dumps(self._record).encode())
                os.replace(draft, path)
                return
        raise FileNotFoundError(f"the folder of {path} is removed all the time")

    def take(self, channel: int, number: int, message: bytes) -> bool:
        """Take in a message from the owner; return False if that breaks the protocol."""
        if channel == frames.HB and number == 0:
            if self.channels[channel].unsent_bytes < 4096:  # a kernel that is silent gets no more
                self.channels[channel].send(0, message)
            return True
        if number <= self.taken[channel]:
            return True  # sent again after the connection was cut
        unsent = self.channels[channel].unsent_bytes
        if number != self.taken[channel] + 1 or channel in (frames.HB, frames.IOPUB):
            return False
        if unsent and unsent + len(message) > frames.WINDOW_BYTES:
            return False
        self.taken[channel] = number
        if not self.over:
            self.channels[channel].send(number, message)
        return True

    def attach(self, owner: Owner, claim: str, attachment: str) -> None:
        """Give the kernel an owner; the connection of the one before is forgotten."""
        self.owner, self.claim = owner, claim
        if attachment != self.attachment:
            self.attachment = attachment
            self.taken = [0] * len(frames.CHANNELS)
            self.passed = list(self.taken)
            for channel in self.channels:
                channel.forget_numbers()

    def release(self, owner: Owner, now: float) -> None:
        """Note that a connection has ended."""
        if self.owner is owner:
            self.owner = None
            self.free_since = now

    def note_exit(self, end: Exit, now: float) -> None:
        """Note that the process has ended and was reaped."""
        self.ended = end
        self._ended_at = now

    def settle(self, now: float) -> None:
        """After the end: note whether all messages were read."""
        if self.ended is None or self.over:
            return
        connected = any(channel.socket is not None for channel in self.channels)
        if not connected or now >= self._ended_at + _REST_SECONDS:
            self.over = True
            for channel in self.channels:
                channel.close()
            self._remove_address()
            if self.owner is not None:
                self.owner.pump()

    def exit_message(self) -> dict[str, Any]:
        """Return the body of the frame EXITED."""
        assert self.ended is not None
        return {**self.ended._asdict(), "tail": self.output.tail()}

    def due(self) -> float | None:
        """Return the time at which check() has something to do; None if there is none."""
        times: list[float] = []
        if self.ended is None:
            if self.owner is None and self.linger is not None:
                times.append(self.free_since + self.linger)
        elif not self.over:
            times.append(self._ended_at + _REST_SECONDS)
        elif self.owner is None:
            times.append(max(self.free_since, self._ended_at) + self._ended_seconds)
        return min(times, default=None)

    def is_forgotten(self, now: float) -> bool:
        """Return whether the linger time is over, so that the kernel has to be removed."""
        due = self.due()
        return (
            self.owner is None
            and due is not None
            and now >= due
            and (self.ended is None or self.over)
        )

    def remove(self) -> None:
        """Remove everything of the kernel after its process was reaped."""
        self.over = self.removed = True
        for channel in self.channels:
            channel.close()
        self.output.close()
        self.log.close()
        self._remove_address()
        remove_files(self.place.files)

    def _remove_address(self) -> None:
        """End the last processes, and remove the files by which other programs find the kernel."""
        kill_members({self.kernel_id.encode()})
        sockets = [self.place.sockets] if self.place.sockets != self.place.folder else []
        remove_files(map(os.fsencode, [self.place.connection_file, *sockets]))
        if self.place.record is not None:
            remove_record(os.fsencode(self.place.record))

    @property
    def _ended_seconds(self) -> float:
        return _ENDED_SECONDS if self.linger is None else min(self.linger, _ENDED_SECONDS)

    def _arrived(self, channel: int, message: bytes | None) -> None:
        if channel == frames.HB:
            if message is not None and self.owner is not None:
                self.owner.beat(message)
        else:
            self.log.append(channel, message)

    def _was_passed(self, channel: int, number: int, size: int) -> None:
        if number:
            self.passed[channel] = number
            if self.owner is not None:
                self.owner.passed(channel, number, size)


def write_file(path: str, data: bytes) -> None:
    """Write a new file that only this user can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
