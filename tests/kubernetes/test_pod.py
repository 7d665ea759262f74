from __future__ import annotations

import base64
from typing import Any

import pytest

from kernelproto.exceptions import InvalidLaunchParameter, NoSuchKernel
from kernelproto.kubernetes import KubernetesProvider, PodKernel
from kernelproto.kubernetes.keys import KeyPair, client_context, new_key_pair
from kernelproto.kubernetes.parameters import check_launch
from kernelproto.kubernetes.pod import key_pair_of, pod_body, program_map, secret_body

KERNEL_ID = "5f0d4a9e-36c5-4a0c-8f4f-7a4ed6d1f1f4"

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def body_of(kernel: PodKernel, **resources: Any) -> dict[str, Any]:
    return pod_body(
        kernel,
        KERNEL_ID,
        kernel_type="kubernetes/python",
        instance="default",
        owner="{}",
        program="kernelproto-host-1",
        port=8765,
        resources=resources,
    )


def test_pod_has_few_rights() -> None:
    body = body_of(PodKernel(image="an/image"))
    spec = body["spec"]
    [container] = spec["containers"]
    assert body["metadata"]["name"] == f"kernelproto-{KERNEL_ID}"
    assert spec["restartPolicy"] == "Never"
    assert not spec["automountServiceAccountToken"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert [each["tolerationSeconds"] for each in spec["tolerations"]] == [60, 60]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [
        "/run/kernelproto/program",
        "/run/kernelproto/keys",
        "/run/kernelproto/work",
    ]


def test_settings_and_template_are_in_the_pod() -> None:
    kernel = PodKernel(
        image="an/image",
        node_selector={"disk": "ssd"},
        tolerations=({"key": "gpu", "operator": "Exists"},),
        service_account="kernels",
        volumes=({"name": "home", "persistentVolumeClaim": {"claimName": "home"}},),
        volume_mounts=({"name": "home", "mountPath": "/home"},),
        labels={"team": "a"},
        pod={
            "metadata": {"annotations": {"note": "x"}},
            "spec": {
                "priorityClassName": "low",
                "securityContext": {"seccompProfile": None},
                "containers": [{"name": "kernel", "env": [{"name": "A", "value": "1"}]}],
            },
        },
    )
    body = body_of(kernel, limits={"cpu": "2"})
    spec = body["spec"]
    [container] = spec["containers"]
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert spec["tolerations"][-1] == {"key": "gpu", "operator": "Exists"}
    assert spec["serviceAccountName"] == "kernels"
    assert spec["volumes"][-1]["name"] == "home"
    assert container["volumeMounts"][-1] == {"name": "home", "mountPath": "/home"}
    assert container["resources"] == {"limits": {"cpu": "2"}}
    assert [each["name"] for each in container["env"]] == ["POD_IP", "A"]
    assert spec["priorityClassName"] == "low"
    assert "seccompProfile" not in spec["securityContext"]
    assert body["metadata"]["labels"]["team"] == "a"
    assert body["metadata"]["annotations"]["note"] == "x"


def test_secret_goes_with_its_pod() -> None:
    pod = {"metadata": {"name": f"kernelproto-{KERNEL_ID}", "uid": "u"}}
    pair = new_key_pair(KERNEL_ID)
    secret = secret_body(pod, KERNEL_ID, "default", pair)
    [owner] = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Pod", "u")
    assert key_pair_of(secret) == pair
    assert client_context(pair).minimum_version.name == "TLSv1_3"
    with pytest.raises(ValueError, match=r"has no 'tls\.crt'"):
        key_pair_of({"data": {}})


def test_pair_that_is_not_valid_is_refused() -> None:
    with pytest.raises(ValueError, match="Empty"):
        client_context(KeyPair("", ""))
    with pytest.raises(OSError, match="certificate"):
        client_context(KeyPair("x", "y"))


def test_program_has_the_name_of_its_contents() -> None:
    one, other = program_map(b"one"), program_map(b"other")
    assert one["metadata"]["name"] != other["metadata"]["name"]
    assert base64.b64decode(one["binaryData"]["host.pyz"]) == b"one"


def test_launch_parameters() -> None:
    kernel = PodKernel(
        image="i", resources={"limits": {"cpu": "1", "memory": "1Gi"}}, env={"A": "1"}
    )
    params = {"cpu": 2.5, "memory": "3Gi", "gpu": 1, "env": {"B": "x ${HOME}"}, "detached": True}
    launch = check_launch(kernel, "kubernetes/a", KERNEL_ID, params)
    assert launch.resources == {
        "limits": {"cpu": "2.5", "memory": "3Gi", "nvidia.com/gpu": "1"},
        "requests": {"cpu": "2.5", "memory": "3Gi", "nvidia.com/gpu": "1"},
    }
    assert launch.env == {"A": "1", "B": "x ${HOME}"}
    assert launch.linger is None
    assert launch.command[-1] == "{connection_file}"
    assert check_launch(kernel, "kubernetes/a", KERNEL_ID, {}).resources == kernel.resources


@pytest.mark.parametrize(
    ("settings", "params", "message"),
    [
        ({}, {"transport": "tcp"}, "listens on ipc"),
        ({}, {"cpu": []}, "cpu"),
        ({}, {"gpu": 0}, "'gpu' is 0"),
        ({}, {"nodes": 2}, "'nodes' has no effect"),
        ({}, {"limits": {"memory": 1}}, "'limits' has no effect on a kernel in a pod"),
        ({"schema": {}}, {"cpu": 1}, "'cpu' has no effect"),
    ],
)
def test_refused_parameters(settings: Any, params: Any, message: str) -> None:
    kernel = PodKernel(image="i", **settings)
    with pytest.raises(InvalidLaunchParameter, match=message):
        check_launch(kernel, "kubernetes/a", KERNEL_ID, params)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kernels": {"a": {}}}, "image"),
        ({"kernels": {"a": {"image": "-x"}}}, "image"),
        ({"kernels": {"a/b": {"image": "i"}}}, "only ASCII letters"),
        ({"kernels": {"a": {"image": "i", "command": []}}}, "an empty command"),
        ({"kernels": {"a": {"image": "i", "linger": 1}}}, "linger"),
        ({"kernels": {"a": {"image": "i", "user": 0}}}, "user"),
        ({"kernels": {"a": {"image": "i", "labels": {"a": "b c"}}}}, "labels"),
        ({"kernels": {"a": {"image": "i", "pod": {"status": {}}}}}, "'status'"),
        ({"kernels": {"a": {"image": "i", "pod": {"spec": None}}}}, "'spec'"),
        (
            {"kernels": {"a": {"image": "i", "pod": {"spec": {"restartPolicy": "Always"}}}}},
            r"cannot change the field spec\.restartPolicy",
        ),
        (
            {"kernels": {"a": {"image": "i", "pod": {"metadata": {"name": "x"}}}}},
            r"cannot change the field metadata\.name",
        ),
        (
            {
                "kernels": {
                    "a": {
                        "image": "i",
                        "pod": {"metadata": {"labels": {"kernelproto.io/kernel": "x"}}},
                    }
                }
            },
            "cannot change the labels",
        ),
        (
            {
                "kernels": {
                    "a": {
                        "image": "i",
                        "pod": {"spec": {"containers": [{"name": "kernel", "command": ["x"]}]}},
                    }
                }
            },
            "cannot change the field 'command' of the container",
        ),
        (
            {"kernels": {"a": {"image": "i", "pod": {"spec": {"containers": [{"image": "x"}]}}}}},
            "a container without a name",
        ),
        ({"port": 80}, "port"),
        ({"instance": "a b"}, "instance"),
        ({"namespaces": []}, "unknown field"),
    ],
)
def test_wrong_settings(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KubernetesProvider().load_config(config)


@pytest.mark.anyio
@asyncio_only
async def test_nothing_is_called_before_a_launch() -> None:
    provider = KubernetesProvider()
    assert provider.id == "kubernetes"
    assert [kernel async for kernel in provider.find_kernels()] == []
    with pytest.raises(NoSuchKernel):
        await provider.launch("python")
    provider.load_config(
        {"kubeconfig": "/nowhere", "kernels": {"r": {"image": "r", "language": "R"}}}
    )
    [(name, about)] = [kernel async for kernel in provider.find_kernels()]
    assert (name, about["display_name"], about["language"]) == ("r", "r (kubernetes)", "R")
    with pytest.raises(NoSuchKernel, match="add it to the kernels of the provider 'kubernetes'"):
        await provider.launch("python")
