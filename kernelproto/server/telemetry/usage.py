"""The memory and processor time of kernels, including all processes that they have started."""

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

# Measuring takes at most this share of one processor, for any number of processes.
_MOST_EFFORT = 0.1

# An average over a longer time says little about the present.
_LONGEST_SPAN_SECONDS = 60.0


class Usage(NamedTuple):
    """The usage of a kernel.

    Args:
        memory: resident memory, in bytes; shared memory counts for each process.
        cpu: the average number of busy processors since the previous measurement; None if there
            was none in the last minute.
    """

    memory: int
    cpu: float | None


class Sample(NamedTuple):
    """A measurement of a process with all descendants.

    Args:
        began: the start time of the process, which differs after a reuse of the process id.
        at: the time of the measurement, in seconds on the clock of ``time.monotonic``.
        memory: resident memory, in bytes.
        cpu_seconds: processor time, including children that were reaped.
    """

    began: float
    at: float
    memory: int
    cpu_seconds: float


class UsageMeter:
    """Measures processes in a worker thread; concurrent calls share a measurement.

    Args:
        fresh_seconds: how long a measurement is reused.

    Attributes:
        cpu_seconds: the processor time of all measured processes, from their start to their last
            measurement; never decreases.
    """

    def __init__(self, *, fresh_seconds: float = 1.0) -> None:
        self.cpu_seconds = 0.0
        self._fresh_seconds = fresh_seconds
        self._samples: Mapping[int, Sample] = {}
        self._usages: Mapping[int, Usage] = {}
        self._fresh_until = 0.0
        self._lock = anyio.Lock()

    async def read(self, pids: Collection[int]) -> Mapping[int, Usage]:
        """Return the usage of processes, each with all descendants.

        Processes that have ended or are newer than the reused measurement are missing.

        Args:
            pids: the process ids. Pass those of all kernels: the result serves other calls, too.
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
    """Return the process ids of the kernels on this machine."""
    return [kernel.pid for kernel in kernels if kernel.pid is not None]


def usage_between(before: Sample | None, after: Sample) -> Usage:
    """Return the usage of a process between two samples."""
    cpu = None
    if before is not None and before.began == after.began:
        span = after.at - before.at
        if 0 < span <= _LONGEST_SPAN_SECONDS:
            cpu = cpu_seconds_between(before, after) / span
    return Usage(after.memory, cpu)


def cpu_seconds_between(before: Sample | None, after: Sample) -> float:
    """Return the processor time between two samples; the whole time without an earlier sample."""
    if before is None or before.began != after.began:
        return after.cpu_seconds
    # The sum may decrease: the processor time of an orphan that ends is lost.
    return max(0.0, after.cpu_seconds - before.cpu_seconds)


def measure(pids: Collection[int]) -> dict[int, Sample]:
    """Return samples of processes, except those that have ended or that may not be read.

    Reads the parent of every process of the machine, which takes about 20 µs for each.
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
