"""Kernels in pods of a real control plane, with the rights of deploy/kubernetes/rbac.yaml."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

import anyio
import msgspec
import pytest

from kernelproto import KernelDied, KernelFinder, Timeouts, adopt_kernel, run_kernel
from kernelproto.exceptions import (
    DiscoveryError,
    InvalidLaunchParameter,
    KernelExitedEarly,
    KernelInUse,
    KernelNotReady,
)
from kernelproto.kubernetes import KubernetesError, KubernetesProvider
from kernelproto.testing import check_adoption
from tests.host.kept_messages import check_messages_are_kept
from tests.kubernetes.conftest import Kernels
from tests.kubernetes.test_manifests import FILES, manifests
from tests.launch.kubernetes.cluster import Cluster

pytestmark = [pytest.mark.anyio]

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

GUARD_SECONDS = 100


async def test_life_of_a_kernel(kernels: Kernels, no_leaks: None) -> None:
    provider = kernels.provider(python=kernels.kernel(env={"PLAIN": "a b"}))
    secret = "x \"y\" 'z' $HOME\n"
    params = {"env": {"SECRET": secret}, "cpu": 0.5, "memory": "200Mi"}
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(
            "kubernetes/python", finder=KernelFinder([provider]), launch_params=params
        ) as kernel:
            code = "import os; print(os.environ['SECRET'], os.environ['PLAIN'])"
            result = await kernel.execute(code)
            assert result.stdout == f"{secret} a b\n"
            async with kernel.execute("import time; print(1); time.sleep(100)") as execution:
                await anext(execution)
                await kernel.interrupt()
                result = await execution
            assert result.error is not None
            assert result.error.ename == "KeyboardInterrupt"
            [pod] = kernels.pods()
            resources = pod["spec"]["containers"][0]["resources"]
            assert resources["limits"] == {"cpu": "500m", "memory": "200Mi"}
            assert len(kernels.secrets()) == 1
            with pytest.raises(KernelDied) as caught:
                await kernel.execute("import os; os._exit(3)")
            assert caught.value.returncode == 3


@asyncio_only
async def test_kernels_are_adopted_as_the_contract_says(kernels: Kernels) -> None:
    """``tests/integration/clusters.py`` checks the whole contract, which takes minutes."""
    provider = kernels.provider(python=kernels.kernel("/bin/sleep", "1000"))
    await check_adoption(provider, partial(provider.launch, "python"), patience=60)


async def test_kernel_is_adopted(kernels: Kernels) -> None:
    provider = kernels.provider()
    with anyio.fail_after(GUARD_SECONDS):
        info, manager = await provider.launch("python")
        handle = manager.handle()
        assert handle is not None
        with pytest.raises(KernelInUse):
            await provider.adopt(handle)
        await manager.detach()
        async with adopt_kernel(handle, finder=KernelFinder([provider])) as kernel:
            assert kernel.connection_info == info
            assert (await kernel.execute("6 * 7")).text == "42"
            await kernel.shutdown()
        with pytest.raises(DiscoveryError, match="has ended"):
            await provider.adopt(handle)


async def test_messages_wait_for_the_next_program(kernels: Kernels) -> None:
    """The first owner is cut off in the middle of an execution; the next one gets its outputs."""
    provider = kernels.provider()
    lines = "".join(f"{number}\n" for number in range(500))
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("kubernetes/python", finder=KernelFinder([provider])) as kernel:
            code = "import time\nfor number in range(500):\n print(number)\n time.sleep(0.001)"
            async with kernel.execute(code) as execution:
                await anext(execution)
                await kernel.manager._link.reconnect()
                assert (await execution).stdout == lines


async def test_next_owner_gets_unconfirmed_messages(kernels: Kernels) -> None:
    provider = kernels.provider()
    with anyio.fail_after(GUARD_SECONDS):
        info, manager = await provider.launch("python")
        await check_messages_are_kept(KernelFinder([provider]), info, manager, manager._link)


@asyncio_only
async def test_reasons_of_a_pod_that_does_not_run(kernels: Kernels, caplog) -> None:
    caplog.set_level(logging.INFO, "kernelproto.kubernetes")
    provider = kernels.provider(
        large=kernels.kernel(queue_seconds=2, resources={"requests": {"cpu": "1000"}}),
        image=kernels.kernel(image_seconds=1, image="missing/image"),
        name=kernels.kernel(image="Bad"),
        selector=kernels.kernel(queue_seconds=2, node_selector={"disk": "none"}),
        slow=kernels.kernel(image="slow/2/image"),
    )
    for name, words in (
        ("large", r"no node can run it .*Insufficient cpu.*queue_seconds"),
        ("image", r"its image 'missing/image' cannot be started"),
        ("selector", r"no node can run it .*didn.t match"),
    ):
        with pytest.raises(KernelNotReady, match=words) as caught:
            await provider.launch(name)
        assert caught.value.phase == "queue"
    assert "waits: no node can run it" in caplog.text
    with pytest.raises(KernelExitedEarly, match=r"InvalidImageName.*correct the image"):
        await provider.launch("name")
    with anyio.fail_after(GUARD_SECONDS):
        _, manager = await provider.launch("slow")
        await manager.cleanup()
    assert "prepares its container" in caplog.text


@asyncio_only
async def test_time_until_the_pod_runs_is_not_that_of_the_start(kernels: Kernels) -> None:
    kernel = kernels.kernel(node_selector={"disk": "none"})
    finder = KernelFinder([kernels.provider(python=kernel)])
    timeouts = Timeouts(startup=2, queue=5)
    with pytest.raises(
        KernelNotReady, match=r"no node can run it.*raise Timeouts\.queue"
    ) as caught:
        async with run_kernel("kubernetes/python", finder=finder, timeouts=timeouts):
            pytest.fail("no node runs the pod")
    assert caught.value.phase == "queue"
    assert caught.value.seconds > timeouts.startup


@asyncio_only
async def test_refusals_of_the_api(kernels: Kernels, kubernetes: Cluster) -> None:
    kubernetes.api.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "few", "namespace": kernels.namespace},
            "spec": {"hard": {"requests.cpu": "1"}},
        }
    )
    provider = kernels.provider(
        python=kernels.kernel(resources={"requests": {"cpu": "100m"}}),
        account=kernels.kernel(service_account="nobody", resources={"requests": {"cpu": "100m"}}),
        invalid=kernels.kernel(pod={"spec": {"dnsPolicy": "Never"}}),
    )
    quota = f"/api/v1/namespaces/{kernels.namespace}/resourcequotas/few"
    kubernetes.api.wait_for(quota, lambda one: bool(one and one.get("status", {}).get("hard")))
    with pytest.raises(KubernetesError, match=r"quota .* is used up .*requests.cpu") as caught:
        await provider.launch("python", launch_params={"cpu": 2})
    assert caught.value.fault == "quota"
    with pytest.raises(KubernetesError, match=r'serviceaccount "nobody" not found') as caught:
        await provider.launch("account")
    assert caught.value.fault == "admission"
    with pytest.raises(KubernetesError, match="dnsPolicy") as caught:
        await provider.launch("invalid")
    assert caught.value.fault in ("invalid", "quota")


@asyncio_only
async def test_missing_rights_are_named(kernels: Kernels, kubernetes: Cluster, tmp_path) -> None:
    token = kubernetes.service_account_token(kernels.namespace, "default")
    path = kubernetes.kubeconfig(tmp_path / "weak", namespace=kernels.namespace, token=token)
    provider = KubernetesProvider({"a": kernels.kernel()}, kubeconfig=str(path))
    with pytest.raises(
        KubernetesError, match=r":default' may not list pods in the namespace"
    ) as caught:
        await provider.launch("a")
    assert caught.value.fault == "forbidden"
    wrong = kubernetes.kubeconfig(tmp_path / "wrong", namespace=kernels.namespace, token="x")
    provider = KubernetesProvider({"a": kernels.kernel()}, kubeconfig=str(wrong))
    with pytest.raises(KubernetesError, match="renew them") as caught:
        await provider.launch("a")
    assert caught.value.fault == "unauthorized"
    admin = kubernetes.kubeconfig(tmp_path / "admin", namespace=kernels.namespace, certificate=True)
    provider = KubernetesProvider({"a": kernels.kernel()}, kubeconfig=str(admin))
    assert await provider.remove_leftovers() == 0


@asyncio_only
async def test_kernels_that_do_not_start(kernels: Kernels) -> None:
    provider = kernels.provider(
        missing=kernels.kernel("/nowhere/kernel", "{connection_file}"),
        python=kernels.kernel(python="/nowhere/python"),
        ends=kernels.kernel(python="/bin/false"),
        silent=kernels.kernel(python="/bin/sleep", start_seconds=1),
    )
    with pytest.raises(KernelExitedEarly, match=r"cannot run '/nowhere/kernel': No such file"):
        await provider.launch("missing")
    with pytest.raises(
        KernelExitedEarly, match=r"the pod .*(has ended|cannot start|did not start)"
    ):
        await provider.launch("python")
    with pytest.raises(
        KernelExitedEarly, match=r"(has ended before its host listened|did not start)"
    ):
        await provider.launch("ends")
    with pytest.raises(InvalidLaunchParameter, match="'/nowhere' cannot be entered"):
        await kernels.provider().launch("python", cwd="/nowhere")


@asyncio_only
async def test_kernel_types_of_a_config_map(kernels: Kernels, kubernetes: Cluster, caplog) -> None:
    kernel = msgspec.json.encode(kernels.kernel(display_name="Mine")).decode()
    provider = KubernetesProvider(config_map="types", kubeconfig=kernels.kubeconfig)
    assert [kernel async for kernel in provider.find_kernels()] == []
    assert "there is no ConfigMap 'types'" in caplog.text
    kubernetes.api.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "types", "namespace": kernels.namespace},
            "data": {"mine.json": kernel, "bad": '{"imagine": 1}', "worse": "["},
        }
    )
    [(name, about)] = [kernel async for kernel in provider.find_kernels()]
    assert (name, about["display_name"]) == ("mine", "Mine")
    assert "'bad' of the ConfigMap 'types' is left out" in caplog.text
    with anyio.fail_after(GUARD_SECONDS):
        _, manager = await provider.launch("mine")
        assert await manager.is_alive()
        await manager.cleanup()


@asyncio_only
async def test_launch_that_is_cancelled_leaves_nothing(kernels: Kernels) -> None:
    provider = kernels.provider()
    await provider.remove_leftovers()
    for seconds in (0.0, 0.01, 0.02, 0.05, 0.1, 0.3, 0.6, 1.0):
        with anyio.move_on_after(seconds), suppress(KernelNotReady):
            _, manager = await provider.launch("python")
            await manager.cleanup()
        kernels.cluster.wait_until(kernels.is_empty, f"nothing to be left after {seconds} s")


def test_control_plane_takes_the_manifests(kubernetes: Cluster, namespace: str) -> None:
    """All but the budgets, whose version the control plane of the tests does not have."""
    for body in manifests(*FILES):
        if body["kind"] in ("PodDisruptionBudget", "Deployment"):
            continue
        body["metadata"]["namespace"] = namespace
        kubernetes.api.apply(body)
