from __future__ import annotations

import logging
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto import (
    KernelDied,
    KernelRestarter,
    Reachable,
    RestartPolicy,
    Timeouts,
    Unreachable,
    adopt_kernel,
    run_kernel,
)
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import (
    DiscoveryError,
    InvalidLaunchParameter,
    KernelExitedEarly,
    KernelInUse,
    KernelNotReady,
    LaunchError,
    NoSuchKernel,
)
from kernelproto.interfaces import KernelHandle
from kernelproto.launch.batch.provider import SlurmProvider
from kernelproto.launch.batch.settings import BatchKernel
from kernelproto.launch.batch.system import BatchError, JobOptions
from kernelproto.launch.finder import KernelFinder
from tests.launch.batch.cluster import Cluster
from tests.launch.batch.silent import silent

pytestmark = pytest.mark.anyio

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

GUARD_SECONDS = 120

LOOK = """
import os
print(os.environ.get("SECRET"), os.environ.get("PLAIN"), "KERNELPROTO_TESTS" in os.environ)
print(os.environ["SLURM_CPUS_PER_TASK"], os.environ["SLURM_JOB_NAME"], os.getcwd())
"""


def finder_of(provider: SlurmProvider) -> KernelFinder:
    return KernelFinder([provider])


async def test_a_kernel_is_a_job(cluster: Cluster, monkeypatch, tmp_path: Path, no_leaks) -> None:
    monkeypatch.setenv("KERNELPROTO_TESTS", "inherited")
    finder = finder_of(cluster.provider(python=cluster.kernel(env={"PLAIN": "a b"})))
    secret = "x \"y\" 'z' $HOME\n"
    params = {"env": {"SECRET": secret}, "cpus": 2, "time": "0:05:00", "memory": 200}
    async with run_kernel(
        "slurm/python", finder=finder, launch_params=params, cwd=tmp_path
    ) as kernel:
        result = await kernel.execute(LOOK)
        code = "import subprocess\nprint('on', flush=True)\nsubprocess.run(['sleep', '1000'])"
        async with kernel.client.execute(code) as execution:
            await anext(execution)
            await kernel.interrupt()
            interrupted = await execution
        assert kernel.connection_info.encrypted
        with pytest.raises(KernelDied) as caught:
            await kernel.execute("import os; os._exit(200)")
    assert result.stdout.startswith(f"{secret} a b False\n2 kernelproto-")
    assert result.stdout.endswith(f" {tmp_path}\n")
    assert interrupted.error.ename == "KeyboardInterrupt"
    assert caught.value.returncode == 200
    assert not cluster.has_folder()


@asyncio_only
async def test_queue_is_told_and_limited(cluster: Cluster, caplog, no_leaks) -> None:
    caplog.set_level(logging.INFO, "kernelproto.launch.batch")
    provider = cluster.provider(python=cluster.kernel(queue_seconds=2))
    with pytest.raises(
        KernelNotReady, match=r"job \d+ is PENDING, at place 1 of its queue .*down.*queue_seconds"
    ) as caught:
        await provider.launch("python", launch_params={"partition": "down"})
    assert caught.value.phase == "queue"
    assert any("at place 1 of its queue" in record.getMessage() for record in caplog.records)
    assert not cluster.has_folder()


@asyncio_only
async def test_time_in_the_queue_is_not_that_of_the_start(cluster: Cluster, no_leaks) -> None:
    finder = finder_of(cluster.provider())
    timeouts = Timeouts(startup=3, queue=4)
    params = {"partition": "down"}
    with pytest.raises(KernelNotReady, match=r"PENDING.*raise Timeouts\.queue") as caught:
        async with run_kernel(
            "slurm/python", finder=finder, launch_params=params, timeouts=timeouts
        ):
            pytest.fail("no node runs the job")
    assert caught.value.phase == "queue"
    assert caught.value.seconds > timeouts.startup


@asyncio_only
async def test_refusals_of_slurm(cluster: Cluster, no_leaks) -> None:
    provider = cluster.provider()
    with pytest.raises(BatchError, match=r"sbatch has failed: .*partition"):
        await provider.launch("python", launch_params={"partition": "unknown"})
    assert not cluster.has_folder()


@asyncio_only
async def test_kernels_that_do_not_start(cluster: Cluster, no_leaks) -> None:
    kernels = {
        "bad": cluster.kernel("/bin/sh", "-c", "echo bad; exit 3", "{connection_file}"),
        "missing": cluster.kernel("/nowhere/kernel", "{connection_file}"),
        "silent": cluster.kernel("/bin/sleep", "1000", start_seconds=1),
        "prologue": cluster.kernel("/bin/true", prologue=("echo no such module >&2", "exit 4")),
    }
    provider = cluster.provider(**kernels)
    with pytest.raises(KernelExitedEarly, match=r"exit status 3(.|\n)*  bad"):
        await provider.launch("bad")
    with pytest.raises(KernelExitedEarly, match=r"cannot run '/nowhere/kernel': .*No such file"):
        await provider.launch("missing")
    with pytest.raises(KernelNotReady, match=r"waiting for its ports; .*start_seconds"):
        await provider.launch("silent")
    with pytest.raises(KernelExitedEarly, match=r"exit status 4(.|\n)*no such module"):
        await provider.launch("prologue")


@asyncio_only
async def test_time_limit_is_warned_of(cluster: Cluster, caplog, no_leaks) -> None:
    provider = cluster.provider(python=cluster.kernel(warn_seconds=60))
    _, manager = await provider.launch("python", launch_params={"time": 1})
    try:
        assert await manager.is_alive()
        assert manager.ends_at is not None
        assert "at the time limit of its job" in caplog.text
    finally:
        await manager.cleanup()


@asyncio_only
async def test_controller_that_does_not_answer_is_waited_for(cluster: Cluster, no_leaks) -> None:
    provider = cluster.provider()
    _, manager = await provider.launch("python")
    try:
        assert await manager.is_alive()
        assert await manager.probe()
        cluster.stop_controller()
        try:
            assert not await manager.probe()
            assert "has not answered" in manager.reachability.problem
            with anyio.move_on_after(0.5):
                await manager.wait()
                pytest.fail("the kernel is alive")
        finally:
            cluster.continue_controller()
        async with background_tasks() as tasks:
            tasks.start_soon(manager.wait)
            await manager.reachability.until_regained()
        await manager.kill()
        assert await manager.wait() == -signal.SIGKILL
    finally:
        await manager.cleanup()


async def test_silent_machine_makes_the_kernel_unreachable(cluster: Cluster, no_leaks) -> None:
    finder = finder_of(cluster.provider())
    policy = RestartPolicy(time_to_dead=1)
    async with run_kernel("slurm/python", finder=finder) as kernel, KernelRestarter(kernel, policy):
        pid = int((await kernel.execute("import os; os.getpid()")).text)
        events = kernel.events()
        info = kernel.connection_info
        with silent(pid, (info.ip, info.hb_port)):
            lost = await anext(events)
        regained = await anext(events)
        assert (await kernel.execute("import os; os.getpid()")).text == str(pid)
    assert isinstance(lost, Unreachable)
    assert lost.problem == "its machine '127.0.0.1' does not answer: no connection after 2 s"
    assert isinstance(regained, Reachable)


@asyncio_only
async def test_launch_that_is_cancelled_leaves_nothing(cluster: Cluster, no_leaks) -> None:
    provider = cluster.provider()
    for seconds in (0.0, 0.03, 0.1, 0.5):
        with anyio.move_on_after(seconds), suppress(KernelNotReady):
            _, manager = await provider.launch("python")
            await manager.cleanup()
    assert not cluster.has_folder()


PROGRAM = """
import sys
import anyio
import msgspec
from kernelproto.launch.batch.provider import SlurmProvider
from kernelproto.launch.batch.settings import BatchKernel

async def main():
    config, folder, kernel = msgspec.json.decode(sys.argv[1])
    kernels = {"python": msgspec.convert(kernel, BatchKernel)}
    provider = SlurmProvider(kernels, folder=folder, config=config, poll_seconds=0.2)
    _, manager = await provider.launch("python")
    print(manager.handle().to_json(), flush=True)
    await manager.wait()

anyio.run(main)
"""


def start_program(cluster: Cluster, kernel: BatchKernel) -> subprocess.Popen[str]:
    argument = msgspec.json.encode([cluster.config, cluster.shared, kernel]).decode()
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, argument], stdout=subprocess.PIPE, text=True
    )


async def handle_of(program: subprocess.Popen[str]) -> KernelHandle:
    line = await anyio.to_thread.run_sync(program.stdout.readline, abandon_on_cancel=True)
    return KernelHandle.from_json(line)


async def wait_for_jobs(cluster: Cluster, *, running: bool) -> None:
    def state() -> bool:
        return any("RUNNING" in job for job in cluster.jobs())

    while await anyio.to_thread.run_sync(state) != running:  # noqa: ASYNC110 (Slurm has no events)
        await anyio.sleep(0.1)


def forget_job(cluster: Cluster) -> None:
    """Change the record to that of a program that was killed before it had the id of its job."""
    [record] = Path(cluster.shared).glob("*/record.json")
    known = msgspec.json.decode(record.read_bytes())
    record.write_bytes(msgspec.json.encode({**known, "place": ""}))


async def test_kernel_is_adopted_after_a_kill(cluster: Cluster, no_leaks) -> None:
    provider = cluster.provider()
    program = start_program(cluster, cluster.kernel())
    handle = await handle_of(program)
    try:
        with pytest.raises(KernelInUse, match=f"process {program.pid}"):
            await provider.adopt(handle)
    finally:
        with program:
            program.kill()
    assert await provider.remove_leftovers() == 0
    async with adopt_kernel(handle, finder=finder_of(provider)) as kernel:
        assert (await kernel.execute("6 * 7")).text == "42"
    with pytest.raises(DiscoveryError, match="has ended"):
        await provider.adopt(handle)


@asyncio_only
async def test_kernel_that_no_program_claims_ends(cluster: Cluster, no_leaks) -> None:
    program = start_program(cluster, cluster.kernel(linger=5))
    await handle_of(program)
    assert len(cluster.jobs()) == 1
    with program:
        program.kill()
    with anyio.fail_after(GUARD_SECONDS):
        await wait_for_jobs(cluster, running=False)
        while await cluster.provider().remove_leftovers() == 0:  # noqa: ASYNC110
            await anyio.sleep(0.2)
    assert not cluster.has_folder()


@asyncio_only
async def test_job_of_a_submission_that_was_cut_off_is_ended(cluster: Cluster, no_leaks) -> None:
    program = start_program(cluster, cluster.kernel("/bin/sleep", "1000"))
    with anyio.fail_after(GUARD_SECONDS):
        await wait_for_jobs(cluster, running=True)
    with program:
        program.kill()
    forget_job(cluster)
    assert await cluster.provider().remove_leftovers() == 1
    with anyio.fail_after(GUARD_SECONDS):
        await wait_for_jobs(cluster, running=False)


async def test_nothing_is_called_before_a_launch(monkeypatch, tmp_path: Path) -> None:
    called = tmp_path / "called"
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n/bin/touch {called}\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    provider = SlurmProvider()
    assert provider.id == "slurm"
    assert [kernel async for kernel in provider.find_kernels()] == []
    with pytest.raises(NoSuchKernel):
        await provider.launch("python")
    provider.load_config({"kernels": {"r": {"language": "R"}}})
    [(name, about)] = [kernel async for kernel in provider.find_kernels()]
    assert (name, about["display_name"], about["language"]) == ("r", "r (slurm)", "R")
    assert "has no folder: set 'folder'" in about["unavailable"]
    with pytest.raises(LaunchError, match="has no folder"):
        await provider.launch("r")
    provider.load_config({"kernels": {"r": {}}, "folder": str(tmp_path / "kernels")})
    [(_, about)] = [kernel async for kernel in provider.find_kernels()]
    assert "unavailable" not in about
    assert not called.exists()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match=r"sbatch and squeue and .* is not on PATH"):
        await provider.launch("r")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kernels": {"a/b": {}}}, "only ASCII letters"),
        ({"kernels": {"a": {"command": []}}}, "an empty command"),
        ({"kernels": {"a": {"job": {"partition": "x; rm"}}}}, "partition"),
        ({"kernels": {"a": {"job": {"account": "--help"}}}}, "account"),
        ({"kernels": {"a": {"prologue": ["a\nb"]}}}, "prologue"),
        ({"kernels": {"a": {"linger": 1}}}, "linger"),
        ({"folder": "relative"}, "folder"),
        ({"poll_seconds": 0}, "poll_seconds"),
    ],
)
def test_wrong_settings(config, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlurmProvider().load_config(config)


@asyncio_only
@pytest.mark.parametrize(
    ("settings", "cwd", "params", "message"),
    [
        ({}, "/nowhere", {}, "does not exist"),
        ({}, None, {"transport": "ipc"}, "is on another machine"),
        ({}, None, {"partition": "a b"}, "launch parameter 'partition' cannot be 'a b'"),
        ({}, None, {"time": "$(id)"}, "'time' cannot be"),
        ({}, None, {"cpus": 0}, "'cpus' is 0"),
        ({}, None, {"nodes": 2}, "'nodes' has no effect on this kernel type; it takes"),
        ({}, None, {"limits": {"memory": 1}}, "'limits' has no effect on a kernel that runs as a"),
        ({"encryption": False}, None, {}, "has to be encrypted"),
        (
            {"schema": {"properties": {"partition": {"enum": ["short"]}}}},
            None,
            {"partition": "long"},
            "short",
        ),
        ({"schema": {}}, None, {"partition": "long"}, "'partition' has no effect"),
    ],
)
async def test_refused_launches(settings, cwd, params, message: str) -> None:
    provider = SlurmProvider({"a": BatchKernel(**settings)}, folder="/nowhere/kernels")
    with pytest.raises(InvalidLaunchParameter, match=message):
        await provider.launch("a", cwd=cwd, launch_params=params)


def test_options_of_the_settings_are_defaults() -> None:
    from kernelproto.launch.batch.parameters import check_launch

    kernel = BatchKernel(job=JobOptions(partition="short", cpus=1))
    launch = check_launch(kernel, "slurm/a", None, {"cpus": 4})
    assert launch.options == JobOptions(partition="short", cpus=4)
    assert launch.encrypted
    assert launch.linger == kernel.linger
    detached = check_launch(kernel, "slurm/a", None, {"detached": True})
    assert detached.linger is None
