"""Kernels in sandboxes, from their launch to their end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

if sys.platform != "linux":
    pytest.skip("sandboxes work on Linux only", allow_module_level=True)

from kernelproto import InvalidLaunchParameter, KernelDied, KernelFinder, run_kernel
from kernelproto.interfaces import KernelManager
from kernelproto.launch import launcher
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.process.confinement import sandbox_fault
from kernelproto.launch.process.control_groups import groups_fault, parent_of_groups
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.providers import ForkServerProvider, IPykernelProvider, KernelSpecProvider
from kernelproto.launch.spec.plan import LaunchPlan
from kernelproto.testing import check_kernel_provider
from kernelproto.wire.connection import ConnectionInfo

if (fault := sandbox_fault()) is not None:
    pytest.skip(f"no sandbox can be made here: {fault}", allow_module_level=True)

pytestmark = pytest.mark.anyio

FINDER = KernelFinder([ForkServerProvider(), IPykernelProvider(), KernelSpecProvider()])
KINDS = ["fork/kernel", "pyimport/kernel"]

GUARD_SECONDS = 60

ESCAPE = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'], env={},\n"
    "                         start_new_session=True)\n"
)


def kernel(kind: str = "fork/kernel", *, params: Mapping[str, Any] | None = None, **settings: Any):
    launch_params = {"sandbox": settings, **(params or {})}
    return run_kernel(kind, finder=FINDER, launch_params=launch_params)


@pytest.fixture(autouse=True)
def nothing_left(no_servers_left: None) -> None:
    """Every test leaves no process, file or mount."""


def mounts() -> bytes:
    return Path("/proc/self/mountinfo").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_in_a_sandbox(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the caller")
    before = mounts()
    async with kernel(kind) as sandboxed:
        result = await sandboxed.execute(
            "import os; print(os.getcwd(), os.getppid(), 'SECRET' in os.environ)\n"
            "print(b'SECRET' in open('/proc/self/environ', 'rb').read())"
        )
        assert result.stdout == "/tmp/home 1 False\nFalse\n"
        result = await sandboxed.execute("!echo from a shell; echo kept > file; cat file")
        assert result.stdout.split() == ["from", "a", "shell", "kept"]
        result = await sandboxed.execute("open('/etc/shadow')")
        assert result.error is not None
        result = await sandboxed.execute(
            "import socket; socket.create_connection(('192.0.2.1', 1))"
        )
        assert result.error is not None
        assert result.error.ename == "OSError"
        assert (await sandboxed.execute(ESCAPE)).status == "ok"
    assert mounts() == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_forked_kernel_has_no_variable_of_another_in_its_memory() -> None:
    search = (
        "wanted, found = 'terces eht'[::-1].encode(), 0\n"
        "with open('/proc/self/mem', 'rb', buffering=0) as memory:\n"
        "    for line in open('/proc/self/maps'):\n"
        "        start, end = (int(part, 16) for part in line.split()[0].split('-'))\n"
        "        if line.split()[1].startswith('rw'):\n"
        "            memory.seek(start)\n"
        "            found += memory.read(end - start).count(wanted + b'!')\n"
        "print(found)"
    )
    secrets = {f"SECRET_{number}": "the secret!" * 50 for number in range(50)}
    async with kernel(params={"env": secrets}) as first:
        assert (await first.execute(search)).stdout != "0\n"
        async with kernel() as second:
            assert (await second.execute(search)).stdout == "0\n"


STARTS_A_KERNEL = """
import json, sys
import anyio
import kernelproto

async def main():
    params = {"sandbox": {}, "detached": json.loads(sys.argv[1])}
    async with kernelproto.run_kernel("fork/kernel", launch_params=params) as kernel:
        print(kernel.manager.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.parametrize("detached", [False, True])
def test_a_sandbox_ends_with_the_fork_server(
    detached: bool, until_gone: Callable[[int], None]
) -> None:
    command = [sys.executable, "-c", STARTS_A_KERNEL, json.dumps(detached)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        first = psutil.Process(int(program.stdout.readline()))
        server = first.ppid()
        program.send_signal(signal.SIGSTOP)  # so that it cannot end the kernel
        os.kill(server, signal.SIGKILL)
        until_gone(server)
        if detached:
            assert first.is_running()
        else:
            until_gone(first.pid)
        program.kill()
    for record in read_records():
        record.clear_up()


async def test_an_interrupt_reaches_the_kernel_only() -> None:
    async with kernel() as sandboxed:
        async with anyio.create_task_group() as tasks:
            execution = sandboxed.execute(
                "import time\nprint('began')\nwhile True: time.sleep(0.01)"
            )
            async for _ in execution:
                tasks.start_soon(sandboxed.interrupt)
                break
            result = await execution
        assert result.error is not None
        assert result.error.ename == "KeyboardInterrupt"
        assert (await sandboxed.execute("print(1)")).stdout == "1\n"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_plot_is_shown() -> None:
    async with kernel() as sandboxed:
        shown = [
            output
            async for output in sandboxed.execute(
                "import matplotlib.pyplot as plot; plot.plot([1, 2]); plot.show()"
            )
        ]
        assert any("image/png" in getattr(output, "data", {}) for output in shown)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_signal_that_ends_a_kernel_is_reported(kind: str) -> None:
    async with kernel(kind) as sandboxed:
        with pytest.raises(KernelDied, match="SIGSEGV"):
            await sandboxed.execute("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_limit_that_ends_a_kernel_is_reported() -> None:
    params = {"limits": {"cpu_seconds": 2}}
    async with kernel(params=params) as sandboxed:
        with pytest.raises(KernelDied, match="used up its 2 s of CPU time"):
            await sandboxed.execute("while True: pass")


def control_groups() -> list[Path]:
    return [Path(name) for name, _, _ in os.walk("/sys/fs/cgroup") if "/kernelproto-" in name]


needs_groups = pytest.mark.skipif(
    groups_fault(Sandbox(memory=2**30, cpu=1)) is not None, reason="there are no control groups"
)


@needs_groups
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_memory_and_cpu_of_all_processes_are_bounded(kind: str) -> None:
    before = control_groups()
    async with kernel(kind, memory=300 * 2**20, tmp=2**30, cpu=0.5) as sandboxed:
        groups = set(control_groups()) - set(before)
        assert {path.parent for path in groups} == {
            Path(parent_of_groups(controller)[0]) for controller in ("memory", "cpu")
        }
        result = await sandboxed.execute(
            "import subprocess, sys\n"
            "code = 'import time; x = bytearray(2**27); time.sleep(1000)'\n"
            "children = [subprocess.Popen([sys.executable, '-c', code]) for _ in range(4)]\n"
            "while not [child for child in children if child.poll() is not None]: pass\n"
            "print([child.returncode for child in children if child.returncode][0])\n"
            "for child in children: child.kill()"
        )
        assert result.stdout == "-9\n"
        with pytest.raises(KernelDied, match="had used up their 314572800 bytes of memory"):
            await sandboxed.execute("open('/tmp/file', 'wb').write(b'x' * 2**28)")
    assert control_groups() == before


@needs_groups
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_control_groups_that_cannot_be_made_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = control_groups()
    monkeypatch.setattr(
        "kernelproto.launch.process.control_groups.parent_of_groups",
        lambda controller: (str(tmp_path / "missing"), 1),
    )
    with pytest.raises(InvalidLaunchParameter, match=r"control group .* cannot be made: No such"):
        async with kernel(memory=2**30):
            pass
    assert control_groups() == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the call is one of x32")
async def test_the_filter_that_ends_a_kernel_is_reported() -> None:
    async with kernel() as sandboxed:
        with pytest.raises(KernelDied, match="the filter of system calls of its sandbox"):
            await sandboxed.execute("import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39)")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the call is one of x32")
async def test_the_filter_that_ends_the_child_of_a_wrapper_is_reported(
    write_kernelspec: Callable[..., Path],
) -> None:
    script = f'"{sys.executable}" -m ipykernel_launcher -f "$0"; exit $?'
    argv = ["sh", "-c", script, "{connection_file}"]
    write_kernelspec("wrapped", argv=argv, display_name="Wrapped", language="python")
    async with kernel("spec/wrapped", params={"transport": "ipc"}) as sandboxed:
        with pytest.raises(KernelDied, match="the filter of system calls of its sandbox"):
            await sandboxed.execute("import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39)")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_memory_and_processes_are_bounded() -> None:
    params = {"limits": {"memory": 2**29}}
    async with kernel(params=params, processes=40) as sandboxed:
        result = await sandboxed.execute("bytearray(2**30)")
        assert result.error is not None
        assert result.error.ename == "MemoryError"
        result = await sandboxed.execute(
            "import os, time\n"
            "count = 0\n"
            "while count < 100:\n"
            "    if not os.fork(): time.sleep(1000)\n"
            "    count += 1"
        )
        assert result.error is not None
        assert result.error.ename == "BlockingIOError"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_kernelspec_is_sandboxed_as_well(write_kernelspec: Callable[..., Path]) -> None:
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_kernelspec("py", argv=argv, display_name="Py", language="python")
    async with kernel("spec/py") as sandboxed:
        result = await sandboxed.execute("import os; print(os.getppid())")
        assert result.stdout == "1\n"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_folder_is_shared_with_the_kernel(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    folder.chmod(0o777)
    launch_params = {"sandbox": {"writable": {str(folder): None}}}
    async with run_kernel(
        kind, finder=FINDER, cwd=str(folder), launch_params=launch_params
    ) as sandboxed:
        await sandboxed.execute("open('result', 'w').write('done')")
    assert (folder / "result").read_text() == "done"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_hidden_working_directory_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidLaunchParameter, match="the sandbox hides it"):
        async with run_kernel(
            kind, finder=FINDER, cwd=str(tmp_path), launch_params={"sandbox": {}}
        ):
            pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_program_that_cannot_be_run_in_the_sandbox_is_named(tmp_path: Path) -> None:
    program = tmp_path / "kernel"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    plan = LaunchPlan(
        argv=(str(program), "{connection_file}"),
        transport="ipc",
        sandbox=Sandbox(network="none", hidden=(str(program),)),
    )
    _, manager = await launcher.launch(plan)
    try:
        assert await manager.wait() == 1
        assert "in the sandbox" in manager.output_tail()
    finally:
        await manager.cleanup()


class Sandboxed(ForkServerProvider):
    """Launches every kernel in a sandbox, in which its working directory is writable."""

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        settings: dict[str, object] = {"network": "loopback"}
        if cwd is not None:
            with suppress(OSError):  # the check for a folder that does not exist
                os.chmod(cwd, 0o777)  # the kernel may have another user
                settings["writable"] = {cwd: None}
        params = {"sandbox": settings, **(launch_params or {})}
        return await super().launch(name, cwd=cwd, launch_params=params)


async def test_sandboxed_kernels_pass_the_checks_for_all_kernels() -> None:
    await check_kernel_provider(Sandboxed())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_outlives_a_program_that_is_killed(
    kind: str, until_gone: Callable[[int], None], runtime_dir: Path
) -> None:
    limits = {} if groups_fault(Sandbox(memory=2**30)) else {"memory": 2**30}
    program = (
        "import anyio, kernelproto\n"
        "async def main():\n"
        f"    params = {{'sandbox': {limits!r}}}\n"
        f"    async with kernelproto.run_kernel({kind!r}, launch_params=params) as kernel:\n"
        f"        await kernel.execute({ESCAPE!r})\n"
        "        print('up', flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], GUARD_SECONDS)
        assert ready
        assert process.stdout.readline() == b"up\n"
        processes = descendants(process.pid)  # with the watchdog, which ends last
        process.kill()
        for pid in processes:
            until_gone(pid)
    assert list(runtime_dir.rglob("kernel-*")) == []
    assert control_groups() == []


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [int(child) for child in children]
    return found + [below for child in found for below in descendants(child)]
