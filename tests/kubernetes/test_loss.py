"""Pods that end, nodes that are lost, and programs that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto import (
    Died,
    KernelDied,
    KernelFinder,
    Reachable,
    Unreachable,
    adopt_kernel,
    run_kernel,
)
from kernelproto.interfaces import KernelHandle
from kernelproto.kubernetes.pod import OWNER_NOTE, QUEUE_NOTE
from tests.kubernetes.conftest import Kernels
from tests.launch.kubernetes.cluster import Cluster

pytestmark = [pytest.mark.anyio]

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

GUARD_SECONDS = 100


@pytest.fixture
def lost_node(kubernetes: Cluster) -> Iterator[str]:
    """Give a node that the test may lose; it is back after the test."""
    yield "n1"
    kubernetes.start_node("n1")


def on_node(kernels: Kernels, node: str) -> KernelFinder:
    kernel = kernels.kernel(node_selector={"kubernetes.io/hostname": node})
    return KernelFinder([kernels.provider(python=kernel)])


async def test_lost_node_makes_its_kernel_unreachable_and_then_dead(
    kernels: Kernels, kubernetes: Cluster, lost_node: str
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("kubernetes/python", finder=on_node(kernels, lost_node)) as kernel:
            events = kernel.events()
            async with kernel.execute("import time; print(1); time.sleep(1000)") as execution:
                await anext(execution)
                await anyio.to_thread.run_sync(kubernetes.lose_node, lost_node)
                assert isinstance(await anext(events), Unreachable)
                with pytest.raises(KernelDied, match="its node 'n1' was lost"):
                    await execution
            assert isinstance(await anext(events), Died)


async def test_network_that_comes_back_loses_nothing(kernels: Kernels, kubernetes: Cluster) -> None:
    """The processes of the pod stop for a while, as if their node could not be reached."""
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("kubernetes/python", finder=on_node(kernels, "n2")) as kernel:
            events = kernel.events()
            code = "import time\nfor number in range(300):\n print(number)\n time.sleep(0.001)"
            async with kernel.execute(code) as execution:
                await anext(execution)
                [pod] = kernels.pods()
                processes = kubernetes.processes(pod["metadata"]["uid"])
                for pid in processes:
                    os.kill(pid, signal.SIGSTOP)
                try:
                    assert not await kernel.manager.probe()
                    assert isinstance(await anext(events), Unreachable)
                finally:
                    for pid in processes:
                        os.kill(pid, signal.SIGCONT)
                assert isinstance(await anext(events), Reachable)
                result = await execution
            assert result.stdout == "".join(f"{number}\n" for number in range(300))


@pytest.mark.parametrize("cause", ["deleted", "killed", "out of memory"])
async def test_end_of_a_pod_is_noticed(kernels: Kernels, kubernetes: Cluster, cause: str) -> None:
    note = {"metadata": {"annotations": {"kernelproto.test/oom": "true"}}}
    kernel_type = kernels.kernel(pod=note if cause == "out of memory" else {})
    finder = KernelFinder([kernels.provider(python=kernel_type)])
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("kubernetes/python", finder=finder) as kernel:
            [pod] = kernels.pods()
            about = pod["metadata"]
            async with kernel.execute("import time; print(1); time.sleep(1000)") as execution:
                await anext(execution)
                if cause == "deleted":
                    kubernetes.api.delete(
                        f"/api/v1/namespaces/{kernels.namespace}/pods/{about['name']}"
                    )
                else:
                    kubernetes.kill_processes(about["uid"])
                with pytest.raises(KernelDied) as caught:
                    await execution
    words = {"deleted": "was deleted", "killed": "has ended", "out of memory": "memory limit"}
    assert caught.value.reason is not None
    assert words[cause] in caught.value.reason


@asyncio_only
async def test_api_server_that_is_away_harms_no_kernel(
    kernels: Kernels, kubernetes: Cluster
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(
            "kubernetes/python", finder=KernelFinder([kernels.provider()])
        ) as kernel:
            await anyio.to_thread.run_sync(kubernetes.kill_api)
            try:
                assert (await kernel.execute("6 * 7")).text == "42"
            finally:
                kubernetes.start_api()  # Linux ends the server with the thread that starts it


PROGRAM = """
import json, sys
import anyio
import msgspec
from kernelproto.kubernetes import KubernetesProvider

async def main():
    provider = KubernetesProvider()
    provider.load_config(json.loads(sys.argv[1]))
    print("begun", flush=True)
    _, manager = await provider.launch("python")
    print(manager.handle().to_json(), flush=True)
    await manager.wait()

anyio.run(main)
"""


def start_program(kernels: Kernels, **settings: Any) -> subprocess.Popen[str]:
    kernel = msgspec.to_builtins(kernels.kernel(**settings))
    config = {"kubeconfig": kernels.kubeconfig, "kernels": {"python": kernel}}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(config)], stdout=subprocess.PIPE, text=True
    )


def lines_of(program: subprocess.Popen[str], number: int) -> str:
    assert program.stdout is not None
    return [program.stdout.readline() for _ in range(number)][-1]


async def test_kernel_is_adopted_after_a_kill(kernels: Kernels) -> None:
    provider = kernels.provider()
    program = start_program(kernels)
    with anyio.fail_after(GUARD_SECONDS):
        try:
            line = await anyio.to_thread.run_sync(lines_of, program, 2)
            handle = KernelHandle.from_json(line)
        finally:
            with program:
                program.kill()
        assert await provider.remove_leftovers() == 0
        async with adopt_kernel(handle, finder=KernelFinder([provider])) as kernel:
            assert (await kernel.execute("6 * 7")).text == "42"


@asyncio_only
async def test_kernel_that_no_program_adopts_ends_with_its_pod(
    kernels: Kernels, kubernetes: Cluster
) -> None:
    program = start_program(kernels, linger=5)
    try:
        await anyio.to_thread.run_sync(lines_of, program, 2)
    finally:
        with program:
            program.kill()
    kubernetes.wait_until(
        lambda: [pod["status"]["phase"] for pod in kernels.pods()] == ["Succeeded"],
        "the end of the pod",
    )
    assert await kernels.provider().remove_leftovers() == 1


@asyncio_only
async def test_pod_of_a_launch_that_was_killed_is_removed(
    kernels: Kernels, kubernetes: Cluster
) -> None:
    program = start_program(kernels, node_selector={"disk": "none"})
    try:
        kubernetes.wait_until(lambda: len(kernels.pods()) == 1, "the pod of the launch")
    finally:
        with program:
            program.kill()
    assert await kernels.provider().remove_leftovers() == 1
    assert await kernels.provider().remove_leftovers() == 0


@asyncio_only
async def test_pod_of_a_program_on_another_machine_is_removed_after_its_time(
    kernels: Kernels, kubernetes: Cluster
) -> None:
    settings = {"node_selector": {"disk": "none"}}
    program = start_program(kernels, **settings)
    try:
        kubernetes.wait_until(lambda: len(kernels.pods()) == 1, "the pod of the launch")
        assert await kernels.provider().remove_leftovers() == 0
    finally:
        with program:
            program.kill()
    [pod] = kernels.pods()
    path = f"/api/v1/namespaces/{kernels.namespace}/pods/{pod['metadata']['name']}"
    kubernetes.api.patch(path, {"metadata": {"annotations": {OWNER_NOTE: "elsewhere"}}})
    assert await kernels.provider().remove_leftovers() == 0
    kubernetes.api.patch(path, {"metadata": {"annotations": {QUEUE_NOTE: "-1000"}}})
    assert await kernels.provider().remove_leftovers() == 1
