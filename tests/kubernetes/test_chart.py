"""The Helm chart: against current schemas, a real control plane, and the files of kustomize."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml

from kernelproto.kubernetes.pod import MANAGED_LABEL, MANAGER
from kernelproto.kubernetes.settings import KubernetesSettings
from kernelproto.server.settings import Settings
from tests.kubernetes.chart import CHART, Chart, RenderingFailed, values
from tests.kubernetes.test_manifests import manifest
from tests.launch.kubernetes import schemas
from tests.launch.kubernetes.cluster import Cluster

# Each renders other parts.
CHOICES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "with a database": {"postgresql": {"enabled": True}},
    "all values": {
        "release": "other",
        "replicas": 5,
        "secret": "mine",
        "postgresql": {"enabled": True, "image": "", "storage": "2Gi"},
        "settings": 'kernel = "kubernetes/\\"r\\""\n',
        "resources": {"limits": {"memory": "3Gi"}},
        "service": {"type": "LoadBalancer", "port": 8080},
        "networkPolicy": {"privateAddresses": ["10.0.0.0/8"]},
    },
}

Bodies = list[dict[str, Any]]


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    return Chart(tmp_path_factory.mktemp("chart"))


@pytest.fixture
def render(chart: Chart) -> Callable[..., Bodies]:
    """Give a function that renders the chart with an image and further values."""
    return lambda **given: chart.render(**{"image": "registry.test/kernelproto:1", **given})


@pytest.fixture
def bodies(render: Callable[..., Bodies]) -> Bodies:
    return render()


def one(bodies: Bodies, kind: str, name: str = "kernelproto") -> dict[str, Any]:
    [found] = [b for b in bodies if (b["kind"], b["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("given", CHOICES.values(), ids=CHOICES)
def test_objects_conform_to_their_schemas(render: Callable[..., Bodies], given: Any) -> None:
    for body in render(**given):
        schemas.check(body)


@pytest.mark.parametrize("given", CHOICES.values(), ids=CHOICES)
def test_control_plane_takes_the_objects(
    render: Callable[..., Bodies], given: Any, kubernetes: Cluster, namespace: str
) -> None:
    """It only checks those that start pods, and creates all others.

    Version 1.20 knows the budgets only as policy/v1beta1, with the same fields.
    """
    for body in render(**given):
        for subject in body.get("subjects", []):
            subject["namespace"] = namespace
        if body["kind"] == "PodDisruptionBudget":
            body["apiVersion"] = "policy/v1beta1"
        made = kubernetes.api.apply(body, namespace, dry=body["kind"] == "StatefulSet")
        assert made["kind"] == body["kind"]


def test_image_is_required(chart: Chart) -> None:
    with pytest.raises(RenderingFailed, match="set image to the name of your image"):
        chart.render()


def test_values_reach_the_objects(render: Callable[..., Bodies]) -> None:
    bodies = render(**CHOICES["all values"])
    assert {body["metadata"]["name"].partition("-")[0] for body in bodies} == {"other"}
    assert one(bodies, "ConfigMap", "other")["data"] == {
        "server.toml": CHOICES["all values"]["settings"]
    }
    servers = one(bodies, "StatefulSet", "other")["spec"]
    assert servers["replicas"] == 5
    [container] = servers["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "3Gi"}
    assert one(bodies, "Service", "other")["spec"]["ports"][0]["port"] == 8080
    database = one(bodies, "StatefulSet", "other-postgresql")["spec"]
    assert database["template"]["spec"]["containers"][0]["image"] == "postgres:17"
    environment = {each["name"]: each for each in container["env"]}
    url = environment["KERNELPROTO_REGISTRY"]["value"]
    assert url == "postgresql://kernelproto:$(POSTGRES_PASSWORD)@other-postgresql/kernelproto"
    assert [*environment].index("POSTGRES_PASSWORD") < [*environment].index("KERNELPROTO_REGISTRY")
    text = yaml.safe_dump_all(bodies)
    assert "name: mine" in text
    assert "secretName: mine" in text


def test_every_value_is_used() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    for name, value in values().items():
        inner = value if isinstance(value, dict) and name != "resources" else [""]
        for field in inner:
            assert f".Values.{name}.{field}".rstrip(".") in templates


def test_servers_are_several_with_one_registry(bodies: Bodies) -> None:
    """Each has a URL of its own, which the Service of the nodes resolves."""
    servers = one(bodies, "StatefulSet")["spec"]
    [container] = servers["template"]["spec"]["containers"]
    environment = {each["name"]: each for each in container["env"]}
    nodes = one(bodies, "Service", servers["serviceName"])
    assert nodes["spec"]["clusterIP"] == "None"
    port = nodes["spec"]["ports"][0]["port"]
    assert environment["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    url = environment["KERNELPROTO_NODE_URL"]["value"]
    assert url == f"http://$(POD_NAME).{servers['serviceName']}:{port}"
    assert [*environment].index("POD_NAME") < [*environment].index("KERNELPROTO_NODE_URL")
    settings = msgspec.convert(
        {
            **tomllib.loads(one(bodies, "ConfigMap")["data"]["server.toml"]),
            "registry": "postgresql://user:password@database/kernels",
            "node_url": url.replace("$(POD_NAME)", "kernelproto-0"),
        },
        Settings,
    )
    msgspec.convert(settings.providers["kubernetes"], KubernetesSettings)
    assert settings.port == port == container["ports"][0]["containerPort"]
    pod = servers["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > settings.grace_seconds
    budget = one(bodies, "PodDisruptionBudget", "kernelproto-server")["spec"]
    assert 0 < budget["maxUnavailable"] < servers["replicas"]


def test_selectors_fit_the_labels(render: Callable[..., Bodies]) -> None:
    bodies = render(postgresql={"enabled": True})
    for name in ("kernelproto", "kernelproto-postgresql"):
        spec = one(bodies, "StatefulSet", name)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        assert one(bodies, "Service", name)["spec"]["selector"] == labels
    labels = one(bodies, "StatefulSet")["spec"]["selector"]["matchLabels"]
    assert one(bodies, "Service", "kernelproto-nodes")["spec"]["selector"] == labels
    for name in ("kernelproto-kernels", "kernelproto-postgresql"):
        [ingress] = one(bodies, "NetworkPolicy", name)["spec"]["ingress"]
        assert ingress["from"] == [{"podSelector": {"matchLabels": labels}}]
    budget = one(bodies, "PodDisruptionBudget", "kernelproto-server")["spec"]
    assert budget["selector"]["matchLabels"] == labels
    budget = one(bodies, "PodDisruptionBudget", "kernelproto-kernels")["spec"]
    assert budget["selector"]["matchLabels"] == {MANAGED_LABEL: MANAGER}


def test_chart_and_kustomization_agree(bodies: Bodies) -> None:
    """The same rights, policy for kernels, settings and pods, with these differences.

    The chart has several servers, so each has a URL; the pods of a release have its label.
    """
    assert one(bodies, "Role")["rules"] == manifest("Role")["rules"]
    assert one(bodies, "ConfigMap")["data"] == manifest("ConfigMap")["data"]

    policy, expected = (
        each["spec"]
        for each in (one(bodies, "NetworkPolicy", "kernelproto-kernels"), manifest("NetworkPolicy"))
    )
    for rule in (policy, expected):
        del rule["ingress"][0]["from"]
    assert policy == expected

    pod = one(bodies, "StatefulSet")["spec"]["template"]["spec"]
    expected = manifest("Deployment")["spec"]["template"]["spec"]
    del pod["topologySpreadConstraints"]
    [container], [wanted] = pod.pop("containers"), expected.pop("containers")
    assert pod == expected
    own = [each for each in container["env"] if each not in wanted["env"]]
    assert [each["name"] for each in own] == ["POD_NAME", "KERNELPROTO_NODE_URL"]
    container["env"] = [each for each in container["env"] if each in wanted["env"]]
    container["image"] = wanted["image"]
    assert container == wanted
