"""The checks of the soak: each cell of a user, and the outputs that have to arrive for it."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kernelproto.wire.message import Message

# A signal, or the news of a death, may arrive some time after the action that caused it.
LATE_SECONDS = 5.0

# Actions that end a kernel's process, or interrupt its cell.
ENDS = frozenset({"kill", "restart", "delete", "admin restart", "admin delete"})
INTERRUPTS = frozenset({"interrupt", "admin interrupt"})

# ipykernel's own print. A signal handler may run between the two writes of a print, so that the
# last line of an interrupted cell can lack its end.
IPYKERNEL_CODE = """
import os, time
print(f"{tag} pid {{os.getpid()}}", flush=True)
for n in range({lines}):
    print(f"{tag} {{n}}", flush=True)
    if n % 10 == 0:
        time.sleep({pause})
"""

# The scripted kernel sends the frames of a message one by one, and an interrupt between them would
# break the message. So it can be interrupted only while it sleeps.
SCRIPTED_CODE = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}})
signal.sigtimedwait({{signal.SIGINT}}, 0)  # one that was sent before this cell
say(f"{tag} pid {{os.getpid()}}\\n", parent)
try:
    for n in range({lines}):
        say(f"{tag} {{n}}\\n", parent)
        if n % 10 == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {{signal.SIGINT}})
            time.sleep({pause})
            signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}})
finally:
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}})
"""


class Report:
    """Counts, and faults: the first of them in words. Threads share it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self.counts[name] += number

    def fault(self, text: str) -> None:
        with self._lock:
            self.faults.append(text)


@dataclass
class Cell:
    """One execute_request, and everything that has arrived for it.

    *may_be_lost* says that the connection was lost before anything had come, so that the server may
    never have received the request. *replied_by* and *idled_by* are the sessions of the reply and
    of "idle". The server makes up a session when it sends one of them for a kernel that has ended.
    """

    msg_id: str
    tag: str
    lines: int
    sent: float = field(default_factory=time.monotonic)
    texts: list[str] = field(default_factory=list)
    seen: bool = False
    status: str = ""
    ename: str = ""
    replied_by: str = ""
    idled_by: str | None = None
    may_be_lost: bool = False

    @classmethod
    def random(cls, random: Random, user: str, number: int) -> Cell:
        lines = random.choice([1, 10, 50, 300])
        return cls(f"{user}-{number}", f"{user} cell{number}", lines)

    def code(self, template: str, pause: float) -> str:
        return template.format(tag=self.tag, lines=self.lines, pause=pause)

    def take(self, message: Message) -> None:
        self.seen, self.may_be_lost = True, False
        if message.msg_type == "stream" and message.content.name == "stdout":
            self.texts.append(message.content.text)
        elif message.msg_type == "execute_reply":
            self.status = message.content.status
            self.replied_by = message.header.session
            self.ename = getattr(message.content, "ename", "") or ""
        elif message.msg_type == "status" and message.content.execution_state == "idle":
            self.idled_by = message.header.session

    @property
    def is_over(self) -> bool:
        return bool(self.status) and self.idled_by is not None

    @property
    def lacks_idle_of_the_kernel(self) -> bool:
        """Whether the kernel replied and ended before its "idle", which follows all outputs."""
        return self.status != "aborted" and self.replied_by != self.idled_by

    @property
    def pid(self) -> int | None:
        found = re.match(rf"{self.tag} pid (\d+)\n", "".join(self.texts[:2]))
        return int(found[1]) if found else None

    def faults(self, *, is_whole: bool) -> Counter[str]:
        """Count the lines that were lost, came twice or belong to another user.

        A cell that is not whole may end at any character, and must have everything before it.
        """
        text = "".join(self.texts)
        expected = "".join(
            [f"{self.tag} pid {self.pid}\n", *(f"{self.tag} {n}\n" for n in range(self.lines))]
        )
        if text == expected or (not is_whole and expected.startswith(text)):
            return Counter()
        if not is_whole and re.fullmatch(r"pid \d*", text.removeprefix(f"{self.tag} ")):
            return Counter()
        got, wanted = Counter(text.splitlines()), Counter(expected.splitlines())
        if not is_whole:  # everything before the last line that has come
            last = max((n for n, line in enumerate(wanted) if line in got), default=-1)
            wanted = Counter(list(wanted)[: last + 1])
        user = self.tag.partition(" ")[0]
        extra = got - wanted
        foreign = sum(count for line, count in extra.items() if not line.startswith(f"{user} "))
        return +Counter(
            lost=(wanted - got).total(),
            foreign=foreign,
            doubled=extra.total() - foreign,
            misplaced=int(got == wanted),
        )


class Disturbances:
    """The actions on one user's kernel that excuse a cell without all its lines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[dict[str, Any]] = []

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        entry = {"kind": kind, "end": float("inf")}
        with self._lock:
            self._all = [one for one in self._all if one["end"] > time.monotonic() - 300]
            self._all.append(entry)
        try:
            yield
        finally:
            entry["end"] = time.monotonic()

    def excuse(self, kinds: frozenset[str], since: float) -> bool:
        """Return whether there was one after a moment, or so shortly before that it counts."""
        with self._lock:
            return any(
                one["kind"] in kinds and one["end"] > since - LATE_SECONDS for one in self._all
            )


def check(cell: Cell, disturbances: Disturbances, report: Report) -> None:
    """Check a cell that is over."""
    was_ended = disturbances.excuse(ENDS, cell.sent)
    was_interrupted = disturbances.excuse(INTERRUPTS, cell.sent)
    match cell.status:
        case "ok":
            allowed = was_ended or not cell.lacks_idle_of_the_kernel
        case "aborted":
            allowed = was_ended
        case _:  # a kernel that is to end is interrupted first
            allowed = (was_interrupted or was_ended) and cell.ename == "KeyboardInterrupt"
    if not allowed:
        report.fault(f"{cell.tag} ended with {cell.status} {cell.ename}, and nothing caused it")
    report.count(f"cells: {cell.status}")
    report.count("lines", len(cell.texts))
    report.count("cells: replied, and ended before idle", cell.lacks_idle_of_the_kernel)
    add_faults(cell, report, is_whole=cell.status == "ok" and not cell.lacks_idle_of_the_kernel)


def add_faults(cell: Cell, report: Report, *, is_whole: bool) -> None:
    for name, number in cell.faults(is_whole=is_whole).items():
        report.count(name, number)
        text = "".join(cell.texts)
        report.fault(
            f"{cell.tag} ({cell.status or 'no reply'}): {number} lines {name}; "
            f"{len(text)} characters came, the last are {text[-60:]!r}"
        )
