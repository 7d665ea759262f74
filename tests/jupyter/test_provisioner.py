"""jupyter_client's own managers and clients with the provisioner, and real kernels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager, KernelManager, start_new_async_kernel
from jupyter_client.provisioning import KernelProvisionerFactory
from jupyter_core.utils import ensure_event_loop

from kernelproto.cli.inventory import find_running_kernels
from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.jupyter.provisioner import KernelProtoProvisioner
from kernelproto.launch.process.confinement import sandbox_fault
from kernelproto.launch.process.forkserver import ForkServer

GUARD_SECONDS = 60
LAUNCHER = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
IN_PROCESS = [sys.executable, "-c"]

pytestmark = pytest.mark.usefixtures("no_leaks", "no_server", "as_default")


@pytest.fixture
def as_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make kernelproto the provisioner of kernelspecs that name none."""
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "kernelproto")
    KernelProvisionerFactory.clear_instance()
    yield
    KernelProvisionerFactory.clear_instance()


def provisioner_of(manager: KernelManager) -> KernelProtoProvisioner:
    assert isinstance(manager.provisioner, KernelProtoProvisioner)
    return manager.provisioner


def parent_of(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def evaluate(client, expression: str) -> str:
    reply = await client.execute(
        "", user_expressions={"_": expression}, reply=True, timeout=GUARD_SECONDS
    )
    return reply["content"]["user_expressions"]["_"]["data"]["text/plain"]


@pytest.mark.asyncio
async def test_ipykernel_is_forked_and_restarted(kernelspec: Callable[..., Path]) -> None:
    kernelspec("own", LAUNCHER, env={"A": "1"})
    manager, client = await start_new_async_kernel(GUARD_SECONDS, "own", cwd="/")
    try:
        provisioner = provisioner_of(manager)
        assert parent_of(provisioner.pid) == ForkServer.running(()).pid
        assert await evaluate(client, "__import__('os').environ['A']") == "'1'"
        assert await evaluate(client, "__import__('os').getcwd()") == "'/'"
        first = provisioner.pid
        await manager.restart_kernel()
        await client.wait_for_ready(GUARD_SECONDS)
        assert await evaluate(client, "__import__('os').getpid()") == str(provisioner.pid)
        assert provisioner.pid != first
        await manager.signal_kernel(signal.SIGKILL)
        assert await provisioner.wait() == -signal.SIGKILL
        assert not manager.has_kernel
        assert not await manager.is_alive()
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()


def test_synchronous_manager(kernelspec: Callable[..., Path]) -> None:
    kernelspec("own", LAUNCHER)
    manager = KernelManager(kernel_name="own")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(GUARD_SECONDS)
        client.execute("import time; time.sleep(1000)")
        while client.get_iopub_msg(GUARD_SECONDS)["msg_type"] != "execute_input":
            pass
        manager.interrupt_kernel()
        assert client.get_shell_msg(GUARD_SECONDS)["content"]["ename"] == "KeyboardInterrupt"
        (kernel,) = find_running_kernels()
        assert kernel.process is not None
        assert kernel.process.pid == provisioner_of(manager).pid
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        ensure_event_loop().close()  # of jupyter_client, which keeps it for synchronous code


@pytest.mark.parametrize(
    ("argv", "env", "options"),
    [
        ([sys.executable, "-E", *LAUNCHER[1:]], {}, {}),
        (LAUNCHER, {"PYTHONHASHSEED": "1"}, {}),
        (LAUNCHER, {}, {"independent": True}),
    ],
)
@pytest.mark.asyncio
async def test_kernel_that_cannot_be_forked(
    kernelspec: Callable[..., Path], argv: list[str], env: dict[str, str], options
) -> None:
    kernelspec("other", argv, env=env)
    manager = AsyncKernelManager(kernel_name="other")
    await manager.start_kernel(**options)
    try:
        assert parent_of(provisioner_of(manager).pid) == os.getpid()
    finally:
        await manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, True),
        ({"stdout": subprocess.DEVNULL}, False),
        ({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}, False),
    ],
)
@pytest.mark.asyncio
async def test_output_of_the_process(
    kernelspec: Callable[..., Path], capfd: pytest.CaptureFixture[str], options, shown: bool
) -> None:
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr, flush=True)"
    kernelspec("printing", [*IN_PROCESS, f"{code}; input()", "{connection_file}"])
    manager = AsyncKernelManager(kernel_name="printing")
    await manager.start_kernel(**options)
    provisioner = provisioner_of(manager)
    local = provisioner.local_manager
    assert local is not None
    assert await provisioner.wait() == 1  # it reads an empty standard input
    await manager.cleanup_resources()
    assert local.output_tail().startswith("out\nerr\n")
    assert capfd.readouterr().err.startswith("out\nerr\n") is shown


@pytest.mark.asyncio
async def test_output_goes_to_a_file(kernelspec: Callable[..., Path], tmp_path: Path) -> None:
    kernelspec("printing", [*IN_PROCESS, "print('out')", "{connection_file}"])
    manager = AsyncKernelManager(kernel_name="printing")
    with (tmp_path / "out").open("wb") as file:
        await manager.start_kernel(stdout=file, stderr=subprocess.STDOUT)
        await provisioner_of(manager).wait()
    await manager.cleanup_resources()
    assert (tmp_path / "out").read_text() == "out\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stdout": 1, "stderr": 2}, "to the same place"),
        ({"stdin": 0}, "an empty standard input"),
        ({"umask": 0}, "umask, which has no meaning"),
    ],
)
@pytest.mark.asyncio
async def test_options_that_are_refused(kernelspec, options, message: str) -> None:
    kernelspec("own", LAUNCHER)
    manager = AsyncKernelManager(kernel_name="own")
    with pytest.raises(InvalidLaunchParameter, match=message):
        await manager.start_kernel(**options)
    await manager.cleanup_resources()


@pytest.mark.asyncio
async def test_config_in_the_kernelspec(kernelspec: Callable[..., Path]) -> None:
    stanza = {"provisioner_name": "kernelproto", "config": {"limits": {"open_files": 99}}}
    argv = [*IN_PROCESS, "import resource; print(resource.getrlimit(7))", "{connection_file}"]
    path = kernelspec("limited", argv, metadata={"kernel_provisioner": stanza})
    manager = AsyncKernelManager(kernel_name="limited")
    await manager.start_kernel()
    local = provisioner_of(manager).local_manager
    assert local is not None
    await provisioner_of(manager).wait()
    await manager.cleanup_resources()
    assert local.output_tail() == "(99, 99)\n"

    stanza["config"] = {"limit": {}}
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "metadata": {"kernel_provisioner": stanza}})
    )
    with pytest.raises(InvalidLaunchParameter, match="limit has no meaning"):
        await AsyncKernelManager(kernel_name="limited").start_kernel()


def test_program_of_nbconvert_needs_no_change(tmp_path: Path) -> None:
    cell = {
        "cell_type": "code",
        "id": "1",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": "import os; print('launched as', os.environ['KERNELPROTO_KERNEL_ID'])",
    }
    kernel = {"name": "python3", "display_name": "Python"}
    notebook = {
        "cells": [cell],
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook))

    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "markdown", "--stdout"]
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, timeout=GUARD_SECONDS
    )

    assert "    launched as " in done.stdout, done.stderr


@pytest.mark.asyncio
@pytest.mark.parametrize("network", ["none", "full"])
async def test_sandbox(kernelspec: Callable[..., Path], network: str) -> None:
    fault = sandbox_fault()
    if fault is not None:
        pytest.skip(f"no sandbox can be made here: {fault}")
    config = {"sandbox": {"network": network}, "limits": {"open_files": 200}}
    stanza = {"provisioner_name": "kernelproto", "config": config}
    kernelspec("own", LAUNCHER, env={"A": "1"}, metadata={"kernel_provisioner": stanza})
    manager, client = await start_new_async_kernel(
        GUARD_SECONDS, "own", env={**os.environ, "B": "2"}
    )
    try:
        seen = "(lambda os: (os.getcwd(), os.getppid(), os.environ['A'], os.environ['B']))"
        assert await evaluate(client, f"{seen}(__import__('os'))") == "('/tmp/home', 1, '1', '2')"
        limit = "__import__('resource').getrlimit(7)[0]"
        assert await evaluate(client, limit) == "200"
        await manager.restart_kernel()
        await client.wait_for_ready(GUARD_SECONDS)
        assert await evaluate(client, "6 * 7") == "42"
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()


@pytest.mark.asyncio
async def test_sandbox_that_hides_the_working_directory(kernelspec: Callable[..., Path]) -> None:
    fault = sandbox_fault()
    if fault is not None:
        pytest.skip(f"no sandbox can be made here: {fault}")
    stanza = {"provisioner_name": "kernelproto", "config": {"sandbox": {}}}
    kernelspec("own", LAUNCHER, metadata={"kernel_provisioner": stanza})
    manager = AsyncKernelManager(kernel_name="own")
    with pytest.raises(InvalidLaunchParameter, match="the sandbox hides it"):
        await manager.start_kernel(cwd="/var/log")
    manager.cleanup_connection_file()
    manager.context.destroy(linger=0)


@pytest.mark.asyncio
async def test_sandbox_that_is_not_valid(kernelspec: Callable[..., Path]) -> None:
    stanza = {"provisioner_name": "kernelproto", "config": {"sandbox": {"network": "some"}}}
    kernelspec("own", LAUNCHER, metadata={"kernel_provisioner": stanza})
    with pytest.raises(InvalidLaunchParameter, match="network"):
        await start_new_async_kernel(GUARD_SECONDS, "own")
