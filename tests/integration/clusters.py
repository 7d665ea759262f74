"""Check the providers of containers, Slurm and Kubernetes in full, with real engines.

Run by hand, as root, after ``make cluster`` or ``make kubernetes``:
``python -m tests.integration.clusters NAME [KILLS]``. NAME is ``container``, ``slurm`` or
``kubernetes``. First the provider is checked against the whole contract, on asyncio and on Trio.
Slurm and Kubernetes then lose a node. Then a program with two detached kernels is killed KILLS
times (by default 50) at random moments, and the next one adopts the same kernels. With Kubernetes,
programs that launch a kernel are killed KILLS times as well, see ``launch_kills``. At the end
no container, job, pod, Secret or folder may be left. The exit status is 1 if anything is.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from kernelproto import Died, KernelFinder, run_kernel
from kernelproto.interfaces import KernelHandle, KernelProvider
from kernelproto.launch import ContainerProvider, SlurmProvider
from kernelproto.testing import check_kernel_provider
from tests.integration.engine_kills import (
    LONGEST_SECONDS,
    STEPS,
    kill_at,
    kill_at_random,
    processes_of,
)
from tests.integration.launch_kills import kill_launches
from tests.kubernetes.conftest import Kernels
from tests.launch.batch.cluster import Cluster
from tests.launch.batch.silent import silent
from tests.launch.container.podman import Podman
from tests.launch.kubernetes.cluster import Cluster as KubernetesCluster

PATIENCE_SECONDS = 60.0

# Kills of launches at random moments, and at each step.
STEP_KILLS = 20

# Until the leftovers of killed programs have ended, and were removed.
LEFT_SECONDS = 150.0

PROGRAM = """
import json, sys
import anyio
from kernelproto import KernelFinder, adopt_kernel, start_kernel
from kernelproto.interfaces import KernelHandle

async def main():
    kind, config, handles = json.loads(sys.argv[1])
    finder = KernelFinder.from_entrypoints()
    finder.load_config({kind: config})
    if not handles:
        for number in range(2):
            kernel = await start_kernel(f"{kind}/python", finder=finder, detached=True)
            await kernel.execute(f"number = {number}")
            handles.append(kernel.handle.to_json())
        print(json.dumps(handles), flush=True)
        await anyio.sleep_forever()
    for number, text in enumerate(handles):
        kernel = await adopt_kernel(KernelHandle.from_json(text), finder=finder).__aenter__()
        assert (await kernel.execute("number")).text == str(number)
        print("adopted", flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


def main(kind: str, kills: int) -> int:
    if kind == "kubernetes":
        return check_kubernetes(kills)
    engine = Podman() if kind == "container" else Cluster()
    with closing(engine), tempfile.TemporaryDirectory(prefix="kp-") as folder:
        config: dict[str, object]
        if isinstance(engine, Podman):
            # The checks have temporary folders of root as working directories.
            kernel = engine.kernel(detached=True, user="0:0")
            short: object = engine.kernel(user="0:0")
            base = f"{folder}/c"
            config = {"engine": "podman", "engine_options": engine.options, "folder": base}
            left: Callable[[], object] = engine.containers
            provider: ContainerProvider | SlurmProvider = ContainerProvider()
        else:
            kernel = engine.kernel()
            short = engine.kernel(linger=5)
            base = engine.shared
            config = {"folder": base, "config": engine.config, "poll_seconds": 0.2}
            left = engine.jobs
            provider = SlurmProvider()
        kernels = {"python": kernel, "short": short}
        config["kernels"] = msgspec.to_builtins(kernels)
        provider.load_config(config)
        for backend in ("asyncio", "trio"):
            began = time.monotonic()
            anyio.run(check, provider, backend=backend)
            seconds = time.monotonic() - began
            print(f"{kind}: the contract is kept on {backend} ({seconds:.0f} s)", flush=True)
        if isinstance(engine, Cluster) and isinstance(provider, SlurmProvider):
            for backend in ("asyncio", "trio"):
                anyio.run(lose_node, engine, provider, backend=backend)
        handles = kill_programs(kind, config, kills)
        anyio.run(end, provider, handles)
        print(f"{kind}: {kills} kills, the kernels are the same", flush=True)
        began_at = Counter(kill_at_random(kind, config) for _ in range(STEP_KILLS))
        print(f"{kind}: {STEP_KILLS} kills of launches, at {dict(began_at)}", flush=True)
        for step in STEPS:
            for _ in range(STEP_KILLS):
                kill_at(step, kind, config)
            print(f"{kind}: {STEP_KILLS} kills of launches at the step {step!r}", flush=True)

        def found() -> tuple[object, ...]:
            return left(), processes_of(base), [str(path) for path in Path(base).rglob("*")]

        deadline = time.monotonic() + LEFT_SECONDS
        while any(found()) and time.monotonic() < deadline:
            anyio.run(provider.remove_leftovers)
            time.sleep(1)
        print(f"{kind}: left behind: {found()}")
        return int(any(found()))


async def check(provider: KernelProvider) -> None:
    await check_kernel_provider(provider, patience=PATIENCE_SECONDS)


def check_kubernetes(kills: int) -> int:
    """Check the provider of Kubernetes, and kill its programs also while they launch."""
    with closing(KubernetesCluster()) as cluster, tempfile.TemporaryDirectory() as folder:
        kernels = Kernels(cluster, cluster.new_namespace(), Path(folder))
        settings = {"python": kernels.kernel()}
        provider = kernels.provider(**settings)
        for backend in ("asyncio", "trio"):
            began = time.monotonic()
            anyio.run(check, provider, backend=backend)
            seconds = time.monotonic() - began
            print(f"kubernetes: the contract is kept on {backend} ({seconds:.0f} s)", flush=True)
        for backend in ("asyncio", "trio"):
            anyio.run(lose_kubernetes_node, kernels, backend=backend)
        config = {
            "kubeconfig": kernels.kubeconfig,
            "kernels": {name: msgspec.to_builtins(each) for name, each in settings.items()},
        }
        handles = kill_programs("kubernetes", config, kills)
        anyio.run(end, provider, handles)
        print(f"kubernetes: {kills} kills, the kernels are the same", flush=True)
        return int(not kill_launches(kernels, kills, random.Random()))


async def lose_kubernetes_node(kernels: Kernels) -> None:
    """End a node and its processes: its kernel cannot be reached, then it is dead."""
    kernel = kernels.kernel(node_selector={"kubernetes.io/hostname": "n1"})
    finder = KernelFinder([kernels.provider(python=kernel)])
    async with run_kernel("kubernetes/python", finder=finder) as running:
        events = running.events()
        await anyio.to_thread.run_sync(kernels.cluster.lose_node, "n1")
        began = time.monotonic()
        async for event in events:
            print(f"kubernetes: after {time.monotonic() - began:.1f} s: {event!r}", flush=True)
            if isinstance(event, Died):
                break
    kernels.cluster.start_node("n1")  # Linux ends the node with the thread that starts it


async def lose_node(cluster: Cluster, provider: SlurmProvider) -> None:
    """Silence the machine of a node: its kernel cannot be reached, then it is dead."""
    async with run_kernel("slurm/python", finder=KernelFinder([provider])) as kernel:
        code = "import os, socket; print(os.getpid(), os.environ['SLURMD_NODENAME'])"
        pid, node = (await kernel.execute(code)).stdout.split()
        events = kernel.events()
        info = kernel.connection_info
        with silent(int(pid), (info.ip, info.hb_port)):
            cluster.kill_node(node)
            began = time.monotonic()
            async for event in events:
                print(f"slurm: after {time.monotonic() - began:.1f} s: {event!r}", flush=True)
                if isinstance(event, Died):
                    break
    cluster.start_node(node)
    await anyio.to_thread.run_sync(cluster.wait_for_nodes)


def kill_programs(kind: str, config: dict[str, object], kills: int) -> list[str]:
    handles: list[str] = []
    adopted = 0
    for number in range(kills + 1):
        argument = json.dumps([kind, config, handles])
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, argument], stdout=subprocess.PIPE, text=True
        ) as program:
            assert program.stdout is not None
            if not handles:
                handles = json.loads(program.stdout.readline())
            elif number == kills:  # the last one has to have adopted both
                adopted += sum(program.stdout.readline() == "adopted\n" for _ in handles)
            else:
                time.sleep(random.random() * LONGEST_SECONDS)
            program.kill()
    assert adopted == len(handles), "the kernels were lost"
    return handles


async def end(provider: ContainerProvider | SlurmProvider, handles: list[str]) -> None:
    for text in handles:
        _, manager = await provider.adopt(KernelHandle.from_json(text))
        await manager.cleanup()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50))
