"""The objects that we send, and the manifests in deploy/, against current schemas."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest
import yaml

from kernelproto.kubernetes import PodKernel
from kernelproto.kubernetes.keys import KeyPair
from kernelproto.kubernetes.pod import (
    INSTANCE_LABEL,
    MANAGED_LABEL,
    MANAGER,
    pod_body,
    program_map,
    secret_body,
)
from kernelproto.kubernetes.settings import KubernetesSettings
from kernelproto.server.settings import Settings
from tests.kubernetes.conftest import MANIFESTS
from tests.launch.kubernetes import schemas

FILES = ("rbac.yaml", "networkpolicy.yaml", "server.yaml")

KERNEL_ID = "5f0d4a9e-36c5-4a0c-8f4f-7a4ed6d1f1f4"


def manifests(*files: str) -> list[dict[str, Any]]:
    return [
        manifest
        for file in files
        for manifest in yaml.safe_load_all((MANIFESTS / file).read_text())
    ]


def manifest(kind: str) -> dict[str, Any]:
    [found] = [each for each in manifests(*FILES) if each["kind"] == kind]
    return found


def pod(**settings: Any) -> dict[str, Any]:
    return pod_body(
        PodKernel(image="an/image", **settings),
        KERNEL_ID,
        kernel_type="kubernetes/python",
        instance="default",
        owner="{}",
        program="kernelproto-host-1",
        port=8765,
        resources={"limits": {"cpu": "1"}},
    )


BODIES = {
    "pod": pod(),
    "pod with settings": pod(
        node_selector={"a": "b"},
        tolerations=({"operator": "Exists"},),
        service_account="a",
        volumes=({"name": "a", "emptyDir": {}},),
        volume_mounts=({"name": "a", "mountPath": "/a"},),
        labels={"a": "b"},
        pod={"spec": {"containers": [{"name": "kernel", "tty": True}]}},
    ),
    "secret": secret_body(
        {"metadata": {"name": "a", "uid": "b"}}, KERNEL_ID, "default", KeyPair("c", "k")
    ),
    "program": program_map(b"program"),
    **{f"{each['kind']} {each['metadata']['name']}": each for each in manifests(*FILES)},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_object_conforms_to_its_schema(body: dict[str, Any]) -> None:
    schemas.check(body)


def test_kustomization_names_all_files() -> None:
    assert manifests("kustomization.yaml")[0]["resources"] == list(FILES)
    assert {path.name for path in MANIFESTS.iterdir()} == {*FILES, "kustomization.yaml"}


def test_settings_of_the_server_are_valid() -> None:
    text = manifest("ConfigMap")["data"]["server.toml"]
    settings = msgspec.convert(tomllib.loads(text), Settings)
    provider = msgspec.convert(settings.providers["kubernetes"], KubernetesSettings)
    assert settings.kernel == "kubernetes/python"
    assert provider.kernels["python"].cwd == "image"
    deployment = manifest("Deployment")["spec"]["template"]["spec"]
    assert deployment["terminationGracePeriodSeconds"] > settings.grace_seconds
    [container] = deployment["containers"]
    assert container["ports"][0]["containerPort"] == settings.port
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.token_file.rpartition("/")[0] in mounts
    assert container["args"][-1].rpartition("/")[0] in mounts


def test_manifests_fit_each_other() -> None:
    deployment = manifest("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    policy = manifest("NetworkPolicy")["spec"]
    assert deployment["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == labels
    assert policy["podSelector"]["matchLabels"] == {MANAGED_LABEL: MANAGER}
    assert policy["ingress"][0]["ports"][0]["port"] == KubernetesSettings().port
    account = manifest("ServiceAccount")["metadata"]["name"]
    assert deployment["template"]["spec"]["serviceAccountName"] == account
    assert pod()["metadata"]["labels"][INSTANCE_LABEL] == "default"
