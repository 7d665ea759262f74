# ruff: noqa: T201
"""The contract of providers and managers over a real sshd, and many cuts: run by hand.

    python -m tests.integration.ssh_conformance --loops asyncio,trio --cuts 50

It checks the whole contract (about thirty kernels), cuts the connection while a kernel writes
lines, in three ways in turn, counts the lines, and measures the round trip and the flood.
"""

from __future__ import annotations

import argparse
import os
import signal
import time

import anyio

from kernelproto import Kernel, KernelFinder, run_kernel
from kernelproto.ssh import SSHProvider
from kernelproto.ssh.connection import Connection, connection_to
from kernelproto.testing import check_kernel_provider
from kernelproto.testing.provider_checks import Snippets
from tests.ssh.sshd import Sshd, running_sshd

# A folder of this test need not be one of the far user.
SNIPPETS = Snippets(
    env="import os; print(os.environ['KERNELPROTO_CHECK'])",
    endless="import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)",
)
LINES = 20_000
CODE = f"""
import time
for number in range({LINES}):
    print(number)
    if number % 100 == 0:
        time.sleep(0.005)
"""


async def check(sshd: Sshd, cuts: int) -> None:
    provider = SSHProvider({"far": sshd.options}, linger=30)
    began = time.monotonic()
    await check_kernel_provider(provider, "far/python3", snippets=SNIPPETS)
    print(f"  the contract holds ({time.monotonic() - began:.0f} s)")
    finder = KernelFinder([provider])
    async with run_kernel("ssh/far/python3", finder=finder) as kernel:
        await kernel.execute("state = 7")
        connection = connection_to("far", sshd.options)
        lost = 0
        for number in range(cuts):
            lost += await cut_during_a_flood(kernel, sshd, connection, number)
        print(f"  {cuts} cuts: {lost} lines lost; state {(await kernel.execute('state')).text}")
        await measure("ssh", kernel)
    async with run_kernel("pyimport/kernel") as kernel:
        await measure("local", kernel)
    while sshd.far_processes():  # noqa: ASYNC110 - no event tells of their end
        await anyio.sleep(0.05)
    print("  nothing is left on the far side")


async def cut_during_a_flood(
    kernel: Kernel, sshd: Sshd, connection: Connection, number: int
) -> int:
    """Cut the connection once; return how many lines are missing."""
    async with kernel.execute(CODE) as execution:
        await anext(execution)
        assert connection._master is not None
        if number % 3 == 0:
            os.kill(connection._master.pid, signal.SIGKILL)
        elif number % 3 == 1:
            sshd.signal_sessions(signal.SIGKILL)
        else:
            sshd.signal_sessions(signal.SIGSTOP)
        result = await execution
    return LINES - len(set(result.stdout.split()) & {str(line) for line in range(LINES)})


async def measure(name: str, kernel: Kernel) -> None:
    times = []
    for _ in range(100):
        began = time.perf_counter()
        await kernel.execute("1")
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    await kernel.execute(f"for n in range({LINES}): display(n)")
    rate = LINES / (time.perf_counter() - began)
    times.sort()
    print(f"  {name}: round trip {times[50] * 1000:.1f} ms (median), {rate:.0f} displays/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", default="asyncio,trio")
    parser.add_argument("--cuts", type=int, default=50)
    arguments = parser.parse_args()
    for loop in arguments.loops.split(","):
        print(f"{loop}:")
        with running_sshd() as sshd:
            anyio.run(check, sshd, arguments.cuts, backend=loop)


if __name__ == "__main__":
    main()
