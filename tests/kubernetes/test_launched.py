"""Kernels in pods that are found by the ids of their launches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto import KernelFinder, adopt_kernel
from kernelproto.exceptions import InvalidLaunchParameter, KernelInUse
from kernelproto.kubernetes import KubernetesError
from kernelproto.kubernetes.adoption import _check_owner
from kernelproto.kubernetes.parameters import check_launch
from kernelproto.kubernetes.pod import OWNER_NOTE
from kernelproto.kubernetes.settings import PodKernel
from kernelproto.launch.launched import FindsLaunched, find_launched
from kernelproto.launch.process.process_id import ProcessId
from tests.integration.launch_kills import run_and_kill
from tests.kubernetes.conftest import Kernels
from tests.launch.found_kernels import check_kernels_of_a_pool

anyio_test = pytest.mark.anyio
asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

GUARD_SECONDS = 100
MADE = 1_700_000_000.0


def pod_of(owner: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "kernelproto-x",
            "creationTimestamp": "2023-11-14T22:13:20Z",
            "annotations": {OWNER_NOTE: owner},
        }
    }


def owner(**changes: Any) -> str:
    """Return this program, as if on another machine, or with other changes."""
    this = msgspec.to_builtins(ProcessId.of(1))
    this["machine"] |= changes.pop("machine", {})
    return msgspec.json.encode(this | changes).decode()


def test_pod_of_a_running_program_is_in_use() -> None:
    with pytest.raises(KernelInUse, match="x is being launched by process 1") as caught:
        _check_owner(pod_of(owner()), "x", MADE + 1000)
    assert caught.value.pid == 1


def test_pod_of_an_ended_program_is_left_over() -> None:
    _check_owner(pod_of(owner(started="0")), "x", MADE)
    _check_owner(pod_of("no program"), "x", MADE)


def test_new_pod_of_a_program_on_another_machine_may_be_in_use() -> None:
    pod = pod_of(owner(machine={"host": "far"}))
    with pytest.raises(KubernetesError, match="process 1 on 'far' may be launching") as caught:
        _check_owner(pod, "x", MADE + 59)
    assert caught.value.fault == "busy"
    _check_owner(pod, "x", MADE + 61)


@pytest.mark.parametrize("listed_as", ["a b", "a,b", "-a", "a" * 64])
def test_id_that_cannot_be_a_label_is_refused(listed_as: str) -> None:
    kernel = PodKernel(image="a", command=("b", "{connection_file}"))
    with pytest.raises(InvalidLaunchParameter, match=r"'listed_as' cannot be .*becomes a label"):
        check_launch(kernel, "kubernetes/a", "id", {"listed_as": listed_as})


@anyio_test
async def test_pool_with_a_registry_keeps_kernels(kernels: Kernels, tmp_path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        await check_kernels_of_a_pool(kernels.provider(), "kubernetes/python", tmp_path)
    assert kernels.is_empty()


@anyio_test
@pytest.mark.parametrize("step", ["replied", "ready", "launched"])
async def test_kernel_of_a_killed_program_is_found_by_its_id(kernels: Kernels, step: str) -> None:
    provider = kernels.provider()
    finder = KernelFinder([provider])
    assert isinstance(provider, FindsLaunched)
    with anyio.fail_after(GUARD_SECONDS):
        await anyio.to_thread.run_sync(kill_listed, kernels, step)
        assert await find_launched(finder, "kubernetes/python", "another") is None
        handle = await find_launched(finder, "kubernetes/python", "mine")
        assert handle is not None
        async with adopt_kernel(handle, finder=finder) as kernel:
            assert (await kernel.execute("6 * 7")).text == "42"
            with pytest.raises(KernelInUse):
                await provider.adopt(handle)
        assert await find_launched(finder, "kubernetes/python", "mine") is None
    kernels.cluster.wait_until(kernels.is_empty, "nothing to be left")


@anyio_test
@pytest.mark.parametrize("step", ["pods made", "secrets made", "host"])
async def test_pod_without_a_kernel_of_a_killed_program_is_removed(
    kernels: Kernels, step: str
) -> None:
    finder = KernelFinder([kernels.provider()])
    with anyio.fail_after(GUARD_SECONDS):
        await anyio.to_thread.run_sync(kill_listed, kernels, step)
        assert len(kernels.pods()) == 1
        assert await find_launched(finder, "kubernetes/python", "mine") is None
    kernels.cluster.wait_until(kernels.is_empty, "nothing to be left")


@anyio_test
@asyncio_only
async def test_pod_of_this_program_is_in_use_while_the_launch_waits(kernels: Kernels) -> None:
    kernel = kernels.kernel(node_selector={"disk": "none"})
    provider = kernels.provider(python=kernel)
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(launch_listed, provider)
            await anyio.to_thread.run_sync(
                kernels.cluster.wait_until, kernels.pods, "the pod to be made"
            )
            with pytest.raises(KernelInUse, match="is being launched by process"):
                await provider.find_launched("python", "mine")
            assert len(kernels.pods()) == 1
            tasks.cancel_scope.cancel()


async def launch_listed(provider: Any) -> None:
    await provider.launch("python", launch_params={"listed_as": "mine"})


def kill_listed(kernels: Kernels, step: str) -> None:
    settings = {"python": kernels.kernel()}
    run_and_kill(kernels, settings, "python", step, params={"listed_as": "mine"})
