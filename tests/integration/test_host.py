"""Kernels of a host: no output is lost while programs and connections come and go."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto import (
    InvalidLaunchParameter,
    KernelDied,
    KernelHandle,
    KernelInUse,
    KernelRestarter,
    KernelUnreachable,
    Reachable,
    RestartPolicy,
    Unreachable,
    adopt_kernel,
    start_kernel,
)
from kernelproto.client.client import KernelClient
from kernelproto.host import link as link_module
from kernelproto.host import manager as manager_module
from kernelproto.host.local import host_folder
from kernelproto.host.manager import HostedKernelManager
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.process.proc import command_line

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 120
LINES = 20_000
FLOOD = f"""
from IPython.display import display
for number in range({LINES}): display({{"text/plain": str(number)}}, raw=True)
"""

# A program that writes down each line that arrives, until it is killed.
GATEWAY = """
import {loop}, os, sys
from kernelproto import start_kernel
sys.path.insert(0, {folder!r})
from test_host import FLOOD, noting

async def main():
    with noting(lambda text: os.write(1, text.encode())):
        kernel = await start_kernel("pyimport/kernel", detached=True, linger=60)
        await kernel.execute("x = 42")
        print(kernel.handle.to_json(), flush=True)
        await kernel.execute(FLOOD)
        sys.stdin.read()

{loop}.run({main})
"""


@contextmanager
def noting(note: Callable[[str], object]) -> Iterator[None]:
    """Call a function with the text of every display that a client gets in this block."""
    deliver = KernelClient.deliver

    def noted(self, channel, frames) -> None:
        if channel == "iopub" and b'"display_data"' in bytes(frames[3]):
            note(msgspec.json.decode(frames[6])["data"]["text/plain"] + "\n")
        deliver(self, channel, frames)

    KernelClient.deliver = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        KernelClient.deliver = deliver  # type: ignore[method-assign]


def host_processes() -> list[int]:
    folder = os.fsencode(host_folder())
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return sorted(pid for pid in pids if folder in command_line(pid))


@pytest.fixture(autouse=True)
def host_ends(no_leaks: None) -> Iterator[None]:
    """Check that the host has ended with its last kernel."""
    yield
    for pid in host_processes():
        with suppress(ProcessLookupError), open(os.pidfd_open(pid)) as sign:
            assert select.select([sign], [], [], 5)[0]
    assert not os.path.exists(host_folder())


async def test_program_is_killed_in_a_flood_and_another_goes_on(anyio_backend) -> None:
    loop = anyio_backend[0]
    program = GATEWAY.format(
        loop=loop, folder=str(Path(__file__).parent), main="main()" if loop == "asyncio" else "main"
    )
    seen: list[str] = []

    def run_and_kill() -> KernelHandle:
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as gateway:
            assert gateway.stdout is not None
            handle = KernelHandle.from_json(gateway.stdout.readline())
            while len(seen) < 3000:
                seen.append(gateway.stdout.readline())
            gateway.kill()
            seen.extend(gateway.stdout)
        return handle

    with anyio.fail_after(GUARD_SECONDS):
        handle = await anyio.to_thread.run_sync(run_and_kill)
        texts: list[str] = []
        with noting(texts.append):
            async with adopt_kernel(handle) as kernel:
                assert (await kernel.execute("print(x)")).stdout == "42\n"
    first, second = "".join(seen).split(), "".join(texts).split()
    assert first == [str(number) for number in range(len(first))]
    begin = int(second[0])
    assert 0 < begin <= len(first)  # behind the last one that was acknowledged
    assert second == [str(number) for number in range(begin, LINES)]


async def test_connection_is_cut_twenty_times_in_a_flood(monkeypatch) -> None:
    monkeypatch.setattr(link_module, "_FIRST_RETRY_SECONDS", 0.001)
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel("pyimport/kernel", detached=True)
        try:
            manager = kernel.manager
            assert isinstance(manager, HostedKernelManager)
            cuts = 0
            numbers: list[int] = []
            async for output in kernel.execute(FLOOD):
                numbers.append(int(output.data["text/plain"]))
                if len(numbers) > cuts * LINES // 25 and cuts < 20:
                    cuts += 1
                    await manager.link.reconnect()
            assert numbers == list(range(LINES))
            assert cuts == 20
            assert manager.link.protocol.lost == 0
        finally:
            await kernel.shutdown()


async def test_requests_survive_a_cut(monkeypatch) -> None:
    monkeypatch.setattr(link_module, "_FIRST_RETRY_SECONDS", 0.001)
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel("pyimport/kernel", detached=True)
        try:
            for number in range(20):
                async with kernel.execute(f"count = {number}; print(count)") as execution:
                    await kernel.manager.link.reconnect()  # type: ignore[attr-defined]
                    assert (await execution).stdout == f"{number}\n"
        finally:
            await kernel.shutdown()


@pytest.mark.parametrize("kernel_type", ["pyimport/kernel", "fork/kernel"])
async def test_life_in_a_host(kernel_type) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel(kernel_type, detached=True, host=True)
        assert isinstance(kernel.manager, HostedKernelManager)
        assert (await kernel.execute("print(6 * 7)")).stdout == "42\n"
        assert await kernel.heartbeat() < GUARD_SECONDS
        async with kernel.execute("import time; print('a'); time.sleep(1000)") as execution:
            async for _ in execution:
                await kernel.interrupt()
                break
            assert (await execution).error.ename == "KeyboardInterrupt"
        answered = await kernel.execute("input('? ')", on_input=lambda request: "yes")
        assert answered.text == "'yes'"
        assert (await kernel.execute("len('x' * 10**7), 'x' * 10**7")).text.startswith("(10000000")
        await kernel.restart()
        assert (await kernel.execute("print(1)")).stdout == "1\n"
        (record,) = read_records()
        with pytest.raises(KernelInUse):
            async with adopt_kernel(record.connection_file):
                pytest.fail("it has two owners")
        with pytest.raises(KernelDied, match="exit status 3"):
            await kernel.execute("import os; print('bye', flush=True); os._exit(3)")
        await kernel.shutdown()
    assert read_records() == []


async def test_killed_host_is_the_death_of_the_kernel() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel("pyimport/kernel", detached=True)
        async with kernel.execute("import time; time.sleep(1000)") as execution:
            os.kill(host_processes()[0], signal.SIGKILL)
            with pytest.raises(KernelDied, match="host"):
                await execution
        await kernel.restart()  # in a new host
        assert (await kernel.execute("print(1)")).stdout == "1\n"
        await kernel.shutdown()


async def test_stopped_host_makes_its_kernels_unreachable(monkeypatch) -> None:
    monkeypatch.setattr(manager_module, "_PROBE_SECONDS", 0.5)
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel("pyimport/kernel", detached=True)
        try:
            async with KernelRestarter(kernel, RestartPolicy(time_to_dead=1.0)):
                await kernel.execute("x = 42")
                events = kernel.events()
                host = host_processes()[0]
                os.kill(host, signal.SIGSTOP)
                try:
                    event = await anext(events)
                    assert isinstance(event, Unreachable)
                    assert "does not answer" in event.problem
                    assert kernel.state == "unreachable"
                    assert await kernel.manager.is_alive()
                    with pytest.raises(KernelUnreachable):
                        async with kernel.fail_if_unreachable():
                            await kernel.execute("pass")
                finally:
                    os.kill(host, signal.SIGCONT)
                assert isinstance(await anext(events), Reachable)
                assert (await kernel.execute("print(x)")).stdout == "42\n"
        finally:
            await kernel.shutdown()


@pytest.mark.parametrize("options", [{"host": True}, {"linger": 5}])
async def test_kernel_that_no_host_can_run_is_refused(options) -> None:
    with pytest.raises(InvalidLaunchParameter, match="ipc"):
        await start_kernel("pyimport/kernel", detached=True, transport="tcp", **options)
    with pytest.raises(InvalidLaunchParameter, match="detached"):
        await start_kernel("pyimport/kernel", **options)
