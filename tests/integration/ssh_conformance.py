# ruff: noqa: T201
"""The contract of providers and managers over a real sshd, and many cuts: run by hand.

    python -m tests.integration.ssh_conformance --loops asyncio,trio --cuts 50

It checks the whole contract (about thirty kernels), cuts the connection while a kernel writes
lines, in four ways in turn, and counts the lines. In the end no program, socket or folder may be
left on either side. ``python -m benchmarks ssh`` measures. The exit status is 1 if anything is
wrong.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping

import anyio
import psutil

from kernelproto import Kernel, KernelFinder, run_kernel
from kernelproto.ssh import SSHProvider
from kernelproto.ssh.connection import Connection, connection_to
from kernelproto.testing import check_kernel_provider
from kernelproto.testing.provider_checks import Snippets
from tests.ssh.sshd import Proxy, Sshd, running_sshd

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


def ways_to_cut(
    sshd: Sshd, proxy: Proxy, connection: Connection
) -> Mapping[str, Callable[[], object]]:
    """Return the ways to cut a connection, which uses the proxy, by name."""

    def kill_master() -> None:
        assert connection._master is not None
        os.kill(connection._master.pid, signal.SIGKILL)

    return {
        "SIGKILL of the ssh master": kill_master,
        "SIGKILL of sshd": lambda: sshd.signal_sessions(signal.SIGKILL),
        "reset by a proxy": proxy.cut,
        "SIGSTOP of sshd": lambda: sshd.signal_sessions(signal.SIGSTOP),
    }


async def check_contract(sshd: Sshd) -> None:
    began = time.monotonic()
    provider = SSHProvider({"far": sshd.options}, linger=30)
    await check_kernel_provider(provider, "far/python3", snippets=SNIPPETS)
    print(f"  the contract holds ({time.monotonic() - began:.0f} s)", flush=True)


async def check_cuts(sshd: Sshd, proxy: Proxy, cuts: int) -> int:
    finder = KernelFinder([SSHProvider({"far": sshd.options}, linger=30)])
    wrong, cut = 0, Counter[str]()
    async with run_kernel("ssh/far/python3", finder=finder) as kernel:
        await kernel.execute("state = 7")
        ways = [*ways_to_cut(sshd, proxy, connection_to("far", sshd.options)).items()]
        for number in range(cuts):
            name, way = ways[number % len(ways)]
            wrong += await wrong_lines(kernel, way)
            cut[name] += 1
            if number % 10 == 9:
                print(f"  {number + 1} cuts: {wrong} lines lost or doubled", flush=True)
        state = (await kernel.execute("state")).text
    print(f"  cuts: {dict(cut)}: {wrong} of {cuts * LINES} lines lost or doubled; state {state}")
    while sshd.far_processes():  # noqa: ASYNC110 - no event tells of their end
        await anyio.sleep(0.05)
    left = near_leftovers(sshd)
    print(f"  left on the far side: nothing; here: {left or 'nothing'}", flush=True)
    return wrong or len(left) or state != "7"


async def wrong_lines(kernel: Kernel, cut: Callable[[], object]) -> int:
    """Cut the connection during a flood; return how many lines are missing or there twice."""
    async with kernel.execute(CODE) as execution:
        await anext(execution)
        cut()
        result = await execution
    counts = Counter(result.stdout.split())
    return sum(abs(1 - counts[str(line)]) for line in range(LINES))


def near_leftovers(sshd: Sshd) -> list[str]:
    """Return the programs and folders of connections that are left on this side."""
    ours = f"kernelproto-ssh-{os.getpid()}-"
    left = [each for each in os.listdir(tempfile.gettempdir()) if each.startswith(ours)]
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if str(sshd.config) in command or ours in command:
            left.append(command)
    return left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", default="asyncio,trio")
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--no-contract", dest="contract", action="store_false")
    arguments = parser.parse_args()
    wrong = 0
    for loop in arguments.loops.split(","):
        print(f"{loop}:", flush=True)
        with running_sshd() as sshd:
            if arguments.contract:
                anyio.run(check_contract, sshd, backend=loop)
            with sshd.through_proxy() as proxy:
                wrong += anyio.run(check_cuts, sshd, proxy, arguments.cuts, backend=loop)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
