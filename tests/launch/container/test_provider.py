from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto import KernelDied, adopt_kernel, run_kernel
from kernelproto.exceptions import (
    DiscoveryError,
    InvalidLaunchParameter,
    KernelInUse,
    LaunchError,
    NoSuchKernel,
    UnsupportedRequest,
)
from kernelproto.interfaces import KernelHandle
from kernelproto.launch.container.engine import EngineError
from kernelproto.launch.container.provider import ContainerProvider
from kernelproto.launch.container.settings import ContainerKernel
from kernelproto.launch.finder import KernelFinder
from tests.launch.container.podman import IMAGE, Podman

pytestmark = pytest.mark.anyio

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

GUARD_SECONDS = 120

SLEEP = ("/bin/sh", "-c", "echo up; exec sleep 1000", "{connection_file}")

LOOK = """
import os, socket
def tries(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"
print(os.environ.get("SECRET"), os.environ.get("PLAIN"), "KERNELPROTO_TESTS" in os.environ)
print(os.getuid(), tries(open, "/usr/written", "w"), tries(open, "/tmp/written", "w"))
print(tries(socket.create_connection, ("127.0.0.1", 22)), [n for _, n in socket.if_nameindex()])
print(open("/proc/self/status").read().split("CapEff:")[1].split()[0])
"""


async def test_a_kernel_is_kept_apart(engine: Podman, monkeypatch, no_leaks) -> None:
    monkeypatch.setenv("KERNELPROTO_TESTS", "inherited")
    finder = KernelFinder([engine.provider(python=engine.kernel(env={"PLAIN": "a b"}))])
    env = {"SECRET": "x \"y\" 'z'\n# w"}
    async with run_kernel("container/python", finder=finder, env=env) as kernel:
        result = await kernel.execute(LOOK)
        async with kernel.client.execute("while True: print('on', flush=True)") as execution:
            await anext(execution)
            await kernel.interrupt()
            interrupted = await execution
    secret, users, network, capabilities = result.stdout.strip().rsplit("\n", 3)
    assert secret == f"{env['SECRET']} a b False"
    assert users == "65534 OSError done"
    assert network == "ConnectionRefusedError ['lo']"
    assert int(capabilities, 16) == 0
    assert interrupted.error.ename == "KeyboardInterrupt"


@asyncio_only
async def test_memory_limit_is_the_reason_of_the_death(engine: Podman, no_leaks) -> None:
    provider = engine.provider(python=engine.kernel(memory=150 * 2**20))
    async with run_kernel("container/python", finder=KernelFinder([provider])) as kernel:
        with pytest.raises(KernelDied, match=r"used up its memory \(150 MiB\)") as caught:
            await kernel.execute("import os; x = os.urandom(2**30)")
    assert caught.value.returncode == -signal.SIGKILL
    assert caught.value.reason.cause == "memory_limit"


@asyncio_only
async def test_exit_status_and_output(engine: Podman, no_leaks) -> None:
    kernels = {
        "status": engine.kernel("/bin/sh", "-c", "echo bad; printf worse >&2; exit 3"),
        "missing": engine.kernel("/nowhere/kernel", "-f", "{connection_file}"),
        "message": engine.kernel(*SLEEP, interrupt_mode="message"),
    }
    provider = engine.provider(**kernels)
    _, manager = await provider.launch("status")
    assert await manager.wait() == 3
    assert manager.output_tail() == "bad\nworse"
    await manager.cleanup()
    assert manager.output_tail() == "bad\nworse"
    _, manager = await provider.launch("missing")
    assert await manager.wait() not in (0, None)
    assert "No such file" in manager.output_tail()
    await manager.cleanup()
    _, manager = await provider.launch("message")
    with pytest.raises(UnsupportedRequest):
        await manager.interrupt()
    await manager.terminate()
    assert await manager.wait() == -signal.SIGTERM
    await manager.cleanup()


@asyncio_only
async def test_missing_image(engine: Podman, no_leaks, runtime_dir) -> None:
    provider = engine.provider(python=ContainerKernel(image="localhost/missing"))
    with pytest.raises(EngineError, match="the image is not on this machine: build or pull it"):
        await provider.launch("python")
    assert list(runtime_dir.iterdir()) == []


@asyncio_only
async def test_launch_that_is_cancelled_leaves_nothing(engine: Podman, no_leaks) -> None:
    provider = engine.provider(sleep=engine.kernel(*SLEEP))
    await provider.remove_leftovers()
    for seconds in (0.0, 0.05, 0.15, 0.3):
        with anyio.move_on_after(seconds):
            _, manager = await provider.launch("sleep")
            await manager.cleanup()
    assert engine.containers() == set()


PROGRAM = """
import sys
import anyio
from kernelproto.launch.container.provider import ContainerProvider
import msgspec
from kernelproto.launch.container.settings import ContainerKernel

async def main():
    engine, options, kernel, detached = msgspec.json.decode(sys.argv[1])
    kernels = {"python": msgspec.convert(kernel, ContainerKernel)}
    provider = ContainerProvider(kernels, engine=engine, engine_options=tuple(options))
    _, manager = await provider.launch("python", launch_params={"detached": detached})
    handle = manager.handle()
    print("" if handle is None else handle.to_json(), flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


def start_program(engine: Podman, *, detached: bool) -> tuple[subprocess.Popen[str], str]:
    """Start a program that launches a kernel; return its first line."""
    what = [engine.program, engine.options, engine.kernel(), detached]
    argument = msgspec.json.encode(what).decode()
    root = Path(__file__).parents[3]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, argument], stdout=subprocess.PIPE, text=True, cwd=root
    )
    return program, program.stdout.readline()


async def kill(program: subprocess.Popen[str]) -> None:
    with program:
        program.kill()


async def test_detached_kernel_is_adopted_after_a_kill(engine: Podman, no_leaks) -> None:
    program, line = await anyio.to_thread.run_sync(
        lambda: start_program(engine, detached=True), abandon_on_cancel=True
    )
    handle = KernelHandle.from_json(line)
    provider = engine.provider()
    finder = KernelFinder([provider])
    try:
        with pytest.raises(KernelInUse, match=f"process {program.pid}"):
            await provider.adopt(handle)
    finally:
        await kill(program)
    assert await provider.remove_leftovers() == 0
    async with adopt_kernel(handle, finder=finder) as kernel:
        assert (await kernel.execute("6 * 7")).text == "42"
        assert kernel.kernel_id == handle.kernel_id
    with pytest.raises(DiscoveryError, match="has ended"):
        await provider.adopt(handle)


@asyncio_only
async def test_kernel_of_a_killed_program_is_removed(engine: Podman, no_leaks) -> None:
    program, line = await anyio.to_thread.run_sync(
        lambda: start_program(engine, detached=False), abandon_on_cancel=True
    )
    assert line == "\n"
    provider = engine.provider()
    assert await provider.remove_leftovers() == 0
    await kill(program)
    assert len(engine.containers()) == 1
    assert await provider.remove_leftovers() == 1


async def test_nothing_is_called_before_a_launch(monkeypatch, tmp_path: Path) -> None:
    called = tmp_path / "called"
    program = tmp_path / "podman"
    program.write_text(f"#!/bin/sh\ntouch {called}\nexit 1\n")
    program.chmod(0o755)
    provider = ContainerProvider(engine=str(program))
    assert [kernel async for kernel in provider.find_kernels()] == []
    with pytest.raises(NoSuchKernel):
        await provider.launch("python")
    provider.load_config({"kernels": {"r": {"image": "r"}}, "engine": str(program)})
    names = {name: about async for name, about in provider.find_kernels()}
    assert names["r"]["display_name"] == "r (r)"
    assert "unavailable" not in names["r"]
    with pytest.raises(InvalidLaunchParameter, match="cannot be 'tcp'"):
        await provider.launch("r", launch_params={"transport": "tcp"})
    assert not called.exists()
    provider.load_config({"kernels": {"r": {"image": "r"}}, "engine": "no-such-engine"})
    async for _, about in provider.find_kernels():
        assert "no-such-engine is not installed" in about["unavailable"]
    with pytest.raises(LaunchError, match="no-such-engine is not installed"):
        await provider.launch("r")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kernels": {"a/b": {"image": "x"}}}, "only ASCII letters"),
        ({"kernels": {"a": {"image": "--privileged"}}}, "image"),
        ({"kernels": {"a": {"image": "x", "command": []}}}, "an empty command"),
        ({"kernels": {"a": {"image": "x", "memroy": 1}}}, "memroy"),
        ({"kernels": {"a": {"image": "x", "mounts": [{"source": "/a,readonly=0"}]}}}, "source"),
        ({"folder": "relative"}, "folder"),
    ],
)
def test_wrong_settings(config, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContainerProvider().load_config(config)


@asyncio_only
@pytest.mark.parametrize(
    ("settings", "cwd", "params", "message"),
    [
        ({}, "/", {}, "not the root folder"),
        ({}, "/tmp/a,b", {}, "without commas"),
        ({}, "/nowhere", {}, "does not exist"),
        ({"cwd": "refused"}, "/tmp", {}, "takes no working directory"),
        ({}, None, {"limits": {"memory": 1}}, "'limits' has no effect on a kernel in a container"),
        ({}, None, {"encryption": "required"}, "without encryption"),
    ],
)
async def test_refused_launches(settings, cwd, params, message: str) -> None:
    provider = ContainerProvider({"a": ContainerKernel(image=IMAGE, **settings)}, engine="missing")
    with pytest.raises(InvalidLaunchParameter, match=message):
        await provider.launch("a", cwd=cwd, launch_params=params)
