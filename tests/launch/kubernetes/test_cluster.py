"""The Kubernetes of the tests behaves as a real one where tests of the provider depend on it."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
import yaml

from tests.launch.kubernetes.api import ApiError
from tests.launch.kubernetes.pods import SLEEP, Pods, pod


def test_a_pod_that_fits_no_node_says_why(pods: Pods) -> None:
    for name, spec, reason in (
        ("cpu", {"_resources": {"requests": {"cpu": "99"}}}, "Insufficient cpu"),
        ("node", {"nodeSelector": {"gpu": "yes"}}, "didn't match"),
    ):
        path = pods.create(pod(name, **spec))

        def says(one: dict | None, reason: str = reason) -> bool:
            conditions = one["status"].get("conditions", []) if one else []
            return any(
                condition["type"] == "PodScheduled"
                and condition["reason"] == "Unschedulable"
                and reason in condition["message"]
                for condition in conditions
            )

        pods.cluster.api.wait_for(path, says)
        pods.end(path)


def test_a_node_selector_chooses_the_node(pods: Pods) -> None:
    for node in ("n1", "n2"):
        path = pods.create(pod(node, nodeSelector={"kubernetes.io/hostname": node}))
        pods.wait_for_phase(path, "Succeeded")
        assert pods.cluster.api.get(path)["spec"]["nodeName"] == node
        pods.end(path)


def test_a_quota_is_kept(pods: Pods) -> None:
    quota = {"kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}
    path = f"/api/v1/namespaces/{pods.namespace}/resourcequotas"
    pods.cluster.api.create(path, quota)
    pods.cluster.api.wait_for(f"{path}/q", lambda one: bool(one and one["status"].get("hard")))
    with pytest.raises(ApiError, match="exceeded quota") as refused:
        pods.create(pod("one"))
    assert refused.value.status == httpx.codes.FORBIDDEN


def test_a_service_account_has_its_own_rights(pods: Pods, tmp_path: Path) -> None:
    token = pods.cluster.service_account_token(pods.namespace, "default")
    config = yaml.safe_load(pods.cluster.kubeconfig(tmp_path / "config", token=token).read_text())
    assert config["users"][0]["user"] == {"token": token}
    for known, status in ((token, httpx.codes.FORBIDDEN), ("none", httpx.codes.UNAUTHORIZED)):
        headers = {"Authorization": f"Bearer {known}"}
        with httpx.Client(verify=pods.cluster.tls(), headers=headers) as client:
            assert client.get(pods.cluster.url + pods.folder).status_code == status


def test_a_lost_node_is_noticed_and_its_pods_are_evicted(pods: Pods) -> None:
    unreachable = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 1,
    }
    path = pods.create(
        pod(
            "one",
            SLEEP.format(""),
            nodeSelector={"kubernetes.io/hostname": "n2"},
            tolerations=[unreachable],
        )
    )
    uid = pods.cluster.api.get(path)["metadata"]["uid"]
    pods.wait_for_phase(path, "Running")
    pods.cluster.kill_node("n2")
    pods.cluster.api.wait_for("/api/v1/nodes/n2", lambda node: _ready(node) == "Unknown")
    pods.cluster.api.wait_for(path, lambda one: "deletionTimestamp" in one["metadata"])
    assert pods.cluster.processes(uid) != []
    pods.cluster.start_node("n2")
    assert pods.cluster.processes(uid) == []
    pods.cluster.api.wait_for(path, lambda one: one is None)


def test_a_node_that_comes_back_has_its_pods_still(pods: Pods) -> None:
    path = pods.create(pod("one", SLEEP.format(""), nodeSelector={"kubernetes.io/hostname": "n1"}))
    uid = pods.cluster.api.get(path)["metadata"]["uid"]
    pods.wait_for_phase(path, "Running")
    pods.cluster.suspend_node("n1")
    try:
        pods.cluster.api.wait_for("/api/v1/nodes/n1", lambda node: _ready(node) == "Unknown")
    finally:
        pods.cluster.resume_node("n1")
        pods.cluster.wait_for_nodes()
    assert pods.cluster.processes(uid) != []
    pods.wait_for_phase(path, "Running")
    pods.end(path)


def test_a_node_that_has_rebooted_has_lost_its_containers(pods: Pods) -> None:
    # The second pod does not have the first address of the node.
    earlier = pods.create(pod("earlier", nodeSelector={"kubernetes.io/hostname": "n1"}))
    pods.wait_for_phase(earlier, "Succeeded")
    pods.end(earlier)
    path = pods.create(pod("one", SLEEP.format(""), nodeSelector={"kubernetes.io/hostname": "n1"}))
    uid = pods.cluster.api.get(path)["metadata"]["uid"]
    pods.wait_for_phase(path, "Running")
    pods.cluster.lose_node("n1")
    pods.cluster.start_node("n1")
    ended = pods.terminated(pods.wait_for_phase(path, "Failed"))
    assert (ended["exitCode"], ended["reason"]) == (137, "ContainerStatusUnknown")
    assert pods.cluster.processes(uid) == []
    pods.end(path)


def test_a_pod_that_ends_without_the_api_server_is_reported_later(
    pods: Pods, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    os.mkfifo(release)
    path = pods.create(pod("one", f"open({str(release)!r}).read(); exit(5)"))
    pods.wait_for_phase(path, "Running")
    pods.cluster.kill_api()
    release.write_text("go on")
    pods.cluster.start_api()
    assert pods.terminated(pods.wait_for_phase(path, "Failed"))["exitCode"] == 5
    pods.end(path)


def _ready(node: dict) -> str:
    conditions = node["status"]["conditions"]
    return next(one["status"] for one in conditions if one["type"] == "Ready")
