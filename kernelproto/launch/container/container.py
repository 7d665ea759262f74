"""Container: one container of the engine; its end is noticed without the engine.

On Linux, the engine's process number of the container is that of a process of this machine, unless
the engine runs elsewhere. A descriptor of this process becomes readable when the container ends.
Where the process is not found, the engine is asked once a second.
"""

from __future__ import annotations

import os
import re
import selectors
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from operator import itemgetter
from typing import Any, NamedTuple, cast

import anyio

from kernelproto.launch.container.engine import Engine, EngineError, is_missing

LABEL = "io.kernelproto.kernel"

_POLL_SECONDS = 1.0

# From the end of the process until the engine reports the end.
_LAG_SECONDS = 0.05

_TAIL_LINES = 400

_LINE = re.compile(r"[^\n]*\n|[^\n]+")

# Exit statuses above this stand for signals: the first process of the container exits with them.
_SIGNALS = 128
_MOST_SIGNALS = 64


class Ended(NamedTuple):
    """The end of a container.

    Attributes:
        returncode: the exit status, negative for a signal; None if unknown.
        out_of_memory: whether Linux ended a process for the limit of the container's memory.
    """

    returncode: int | None
    out_of_memory: bool


class Container:
    """A container that was started.

    Attributes:
        name: the name of the container.
        ended: how the container has ended, as far as known.
        released: whether this program no longer watches the container.
    """

    def __init__(self, engine: Engine, name: str, about: Mapping[str, Any]) -> None:
        self.name = name
        self.ended: Ended | None = None
        self.released = False
        self._engine = engine
        self._turn = anyio.Lock()
        self._sign = _sign(about)
        self._note(about)

    async def look(self) -> Ended | None:
        """Return how the container has ended; None for a running container, or if unknown."""
        if self.ended is None and not self._runs_certainly():
            with suppress(EngineError):
                about = await self._engine.inspect(self.name)
                if about:
                    self._note(about[0])
                elif self.ended is None:
                    self.ended = Ended(None, False)
        return self.ended

    async def wait(self) -> Ended:
        """Wait until the container has ended.

        Raises:
            RuntimeError: the container was released.
        """
        # Only one task at a time may wait for a descriptor; the others wait for their turn.
        async with self._turn:
            delay = _LAG_SECONDS
            while (ended := await self.look()) is None:
                if self.released:
                    raise RuntimeError("this kernel has been released and cannot be waited for")
                if self._sign is None:
                    await anyio.sleep(_POLL_SECONDS)
                elif self._runs_certainly():
                    with suppress(anyio.ClosedResourceError):
                        await anyio.wait_readable(self._sign)
                else:
                    await anyio.sleep(delay)
                    delay = min(2 * delay, _POLL_SECONDS)
            return ended

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel; do nothing if the container has ended."""
        if await self.look() is None:
            try:
                await self._engine.call("kill", f"--signal={int(signum)}", self.name)
            except EngineError:
                # The container may have just ended.
                if await self._runs():
                    raise

    async def output(self) -> str:
        """Return the last lines of the output; "" if the engine does not have them."""
        try:
            tail = f"--tail={_TAIL_LINES}"
            done = await self._engine.run("logs", "--timestamps", tail, self.name)
        except EngineError:
            return ""
        return in_order(done.stdout, done.stderr)

    async def remove(self) -> None:
        """End and remove the container, if it exists.

        Raises:
            EngineError: the engine did not remove the container.
        """
        await remove(self._engine, self.name)

    def close(self) -> None:
        """Close the descriptor; more than once is fine."""
        self.released = True
        if self._sign is not None and not self._sign.closed:
            anyio.notify_closing(self._sign)
            self._sign.close()

    async def _runs(self) -> bool:
        for about in await self._engine.inspect(self.name):
            return bool(about["State"].get("Running"))
        return False

    def _runs_certainly(self) -> bool:
        if self._sign is None or self._sign.closed:
            return False
        with selectors.PollSelector() as selector:
            selector.register(self._sign, selectors.EVENT_READ)
            return not selector.select(0)

    def _note(self, about: Mapping[str, Any]) -> None:
        state = cast(Mapping[str, Any], about["State"])
        if state.get("Running") or state.get("Status") in ("stopping", "paused"):
            return
        status = int(state.get("ExitCode") or 0)
        if _SIGNALS < status <= _SIGNALS + _MOST_SIGNALS:
            status = _SIGNALS - status
        self.ended = Ended(status, bool(state.get("OOMKilled")))


async def remove(engine: Engine, name: str) -> None:
    """End and remove a container, if it exists.

    Raises:
        EngineError: the engine did not remove the container.
    """
    time = ["--time=0"] if engine.kind == "podman" else []
    try:
        await engine.call("rm", "--force", "--volumes", *time, name)
    except EngineError as error:
        if not is_missing(error):
            raise


def in_order(*outputs: str) -> str:
    """Return the lines of several outputs by the times that they begin with, without the times."""
    found = (line.partition(" ") for output in outputs for line in _LINE.findall(output))
    return "".join(text for _, _, text in sorted(found, key=itemgetter(0)))


def _sign(about: Mapping[str, Any]) -> FileIO | None:
    """Return a descriptor that becomes readable when the container ends; None if there is none."""
    pid = int(about["State"].get("Pid") or 0)
    if pid <= 0 or not hasattr(os, "pidfd_open"):
        return None
    try:
        sign = FileIO(os.pidfd_open(pid), "r")
    except OSError:
        return None
    # The descriptor was opened before, so it belongs to this process, if the process still runs
    # now.
    if _is_in(pid, str(about["Id"])):
        return sign
    sign.close()
    return None


def _is_in(pid: int, container_id: str) -> bool:
    """Return whether a process belongs to a container, by the name of its control group."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            return len(container_id) >= 12 and container_id in file.read()
    except OSError:
        return False
