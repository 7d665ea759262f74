"""Usage: what kernels use of this machine, each with all the processes that it has started."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import anyio
import anyio.to_thread
import psutil

from kernelproto.pool import PooledKernel

# Measuring takes no more than this part of one processor's time, however many processes there are.
_MOST_EFFORT = 0.1

# A share of a longer time would say little about now.
_LONGEST_SPAN_SECONDS = 60.0


class Usage(NamedTuple):
    """What a kernel uses.

    Args:
        memory: bytes in memory; those that processes share count for each of them.
        cpu: processors kept busy since the measurement before this, 1.0 for one; None where there
            was none lately.
    """

    memory: int
    cpu: float | None


class Sample(NamedTuple):
    """What a process and all below it have in memory now, and have used until now.

    Args:
        began: when the process began, which tells it from another of the same number.
        at: when this was measured, in seconds on the clock of ``time.monotonic``.
        memory: bytes.
        cpu_seconds: also of children that have ended and that their parents have waited for.
    """

    began: float
    at: float
    memory: int
    cpu_seconds: float


class UsageMeter:
    """Measures in a worker thread, once for all who ask at about the same time.

    Args:
        fresh_seconds: how long a measurement is good enough.

    Attributes:
        cpu_seconds: the processor time of all processes that were measured, from their start to
            their last measurement; it never falls.
    """

    def __init__(self, *, fresh_seconds: float = 1.0) -> None:
        self.cpu_seconds = 0.0
        self._fresh_seconds = fresh_seconds
        self._samples: Mapping[int, Sample] = {}
        self._usages: Mapping[int, Usage] = {}
        self._fresh_until = 0.0
        self._lock = anyio.Lock()

    async def read(self, pids: Collection[int]) -> Mapping[int, Usage]:
        """Return what processes use, each with all below it.

        Those that have ended, or came after a measurement that is good enough, are not in it.

        Args:
            pids: the numbers of the processes; every call should have all that anybody asks for.
        """
        async with self._lock:
            began = time.monotonic()
            if began >= self._fresh_until:
                samples = await anyio.to_thread.run_sync(measure, frozenset(pids))
                self._usages = {
                    pid: usage_between(self._samples.get(pid), sample)
                    for pid, sample in samples.items()
                }
                self.cpu_seconds += sum(
                    cpu_seconds_between(self._samples.get(pid), sample)
                    for pid, sample in samples.items()
                )
                self._samples = samples
                ended = time.monotonic()
                pause = (ended - began) / _MOST_EFFORT
                self._fresh_until = ended + max(self._fresh_seconds, pause)
            return self._usages


def pids_of(kernels: Iterable[PooledKernel]) -> list[int]:
    """Return the numbers of the kernels' processes on this machine."""
    return [kernel.pid for kernel in kernels if kernel.pid is not None]


def usage_between(before: Sample | None, after: Sample) -> Usage:
    """Return what a process used from one sample to the next."""
    cpu = None
    if before is not None and before.began == after.began:
        span = after.at - before.at
        if 0 < span <= _LONGEST_SPAN_SECONDS:
            cpu = cpu_seconds_between(before, after) / span
    return Usage(after.memory, cpu)


def cpu_seconds_between(before: Sample | None, after: Sample) -> float:
    """Return the processor time between two samples; all of it without an earlier sample."""
    if before is None or before.began != after.began:
        return after.cpu_seconds
    # The sum may fall: an orphan's processor time goes with the orphan.
    return max(0.0, after.cpu_seconds - before.cpu_seconds)


def measure(pids: Collection[int]) -> dict[int, Sample]:
    """Return samples of processes; those that are gone, or not ours to look at, are left out.

    It looks once at every process of the machine, which takes about 20 µs for each.
    """
    if not pids:
        return {}
    processes: dict[int, psutil.Process] = {}
    children: defaultdict[int, list[psutil.Process]] = defaultdict(list)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            children[process.ppid()].append(process)
            processes[process.pid] = process
    samples: dict[int, Sample] = {}
    for pid in pids:
        with suppress(KeyError, psutil.Error):
            samples[pid] = _sample(processes[pid], children)
    return samples


def _sample(top: psutil.Process, children: Mapping[int, list[psutil.Process]]) -> Sample:
    began, at = top.create_time(), time.monotonic()
    memory, cpu_seconds = 0, 0.0
    waiting = [top]
    while waiting:
        process = waiting.pop()
        waiting += children.get(process.pid, ())
        with suppress(psutil.Error), process.oneshot():
            times = process.cpu_times()
            memory += process.memory_info().rss
            cpu_seconds += times.user + times.system
            cpu_seconds += times.children_user + times.children_system
    return Sample(began, at, memory, cpu_seconds)
