"""The memory and processor time of kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import anyio
import psutil
import pytest

from kernelproto.server.telemetry.usage import Sample, Usage, UsageMeter, measure, usage_between

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60

BEFORE = Sample(began=100.0, at=10.0, memory=5, cpu_seconds=1.0)


@pytest.mark.parametrize(
    ("before", "after", "cpu"),
    [
        (None, BEFORE, None),
        (BEFORE, BEFORE._replace(at=12.0, cpu_seconds=2.0), 0.5),
        (BEFORE, BEFORE._replace(at=12.0, cpu_seconds=9.0), 4.0),
        (BEFORE, BEFORE._replace(at=12.0, cpu_seconds=0.5), 0.0),
        (BEFORE, BEFORE._replace(at=71.0, cpu_seconds=9.0), None),
        (BEFORE, BEFORE._replace(at=12.0, began=101.0), None),
        (BEFORE, BEFORE, None),
    ],
)
def test_usage_between_samples(before: Sample | None, after: Sample, cpu: float | None) -> None:
    assert usage_between(before, after) == Usage(5, cpu)


PARENT = """
import subprocess, sys
ballast = "x = b'x' * 50_000_000; print(flush=True); input()"
worker = "import time\\nwhile time.process_time() < 0.3: pass"
pipe = subprocess.PIPE
with subprocess.Popen([sys.executable, "-c", ballast], stdin=pipe, stdout=pipe) as child:
    child.stdout.readline()
    print(flush=True)
    input()
    subprocess.run([sys.executable, "-c", worker])
    print(flush=True)
    input()
"""


def test_measurement_includes_child_processes() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it raises EOFError at the end
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        before = measure([parent.pid])[parent.pid]
        (ballast,) = psutil.Process(parent.pid).children()
        assert before.memory > ballast.memory_info().rss > 50_000_000
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        parent.stdout.readline()
        after = measure([parent.pid])[parent.pid]
        assert after.began == before.began
        assert after.cpu_seconds - before.cpu_seconds > 0.25  # of a child that has ended
    assert measure([parent.pid]) == {}


@pytest.mark.anyio
async def test_concurrent_reads_share_one_measurement() -> None:
    meter = UsageMeter(fresh_seconds=GUARD_SECONDS)
    readings: list[object] = []

    async def read() -> None:
        readings.append(await meter.read([os.getpid()]))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(read)
    assert len({id(reading) for reading in readings}) == 1
    usage = (await meter.read([]))[os.getpid()]
    assert usage.memory > 0
    assert usage.cpu is None
    assert meter.cpu_seconds > 0


@pytest.mark.anyio
async def test_meter_measures_the_use_of_processors() -> None:
    meter = UsageMeter(fresh_seconds=0)
    usage = Usage(0, None)
    with anyio.fail_after(GUARD_SECONDS):
        while not usage.cpu:
            usage = (await meter.read([os.getpid()]))[os.getpid()]
        seconds = meter.cpu_seconds
        await meter.read([])  # the meter forgets the process
        assert meter.cpu_seconds == seconds
    assert 0 < usage.cpu < 1000
