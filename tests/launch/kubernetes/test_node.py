"""A node of the tests runs pods as a real one does, where tests of the provider depend on it."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import pytest

from tests.launch.kubernetes.pods import HANDLED, SLEEP, Pods, pod


@pytest.mark.parametrize(
    ("script", "phase", "code", "reason"),
    [
        ("", "Succeeded", 0, "Completed"),
        ("exit(7)", "Failed", 7, "Error"),
        ("import os; os.kill(os.getpid(), 9)", "Succeeded", 0, "Completed"),
    ],
    ids=["success", "failure", "process 1 cannot kill itself"],
)
def test_a_pod_runs_and_its_exit_code_arrives(
    pods: Pods, script: str, phase: str, code: int, reason: str
) -> None:
    path = pods.create(pod("one", script))
    status = pods.wait_for_phase(path, "Succeeded", "Failed")
    ended = pods.terminated(status)
    assert (status["phase"], ended["exitCode"], ended["reason"]) == (phase, code, reason)
    pods.end(path)


def test_a_container_sees_its_secret_and_its_variables(pods: Pods) -> None:
    secret = {"metadata": {"name": "key"}, "data": {"k": base64.b64encode(b"hidden").decode()}}
    pods.cluster.api.create(f"/api/v1/namespaces/{pods.namespace}/secrets", secret)
    script = """
import os, socket
path = "/kernelproto/connection/k"
print(os.getpid(), open(path).read(), oct(os.stat(path).st_mode), os.environ["K"])
print(os.environ["IP"].startswith("127."), socket.gethostname(), os.environ["BOTH"])
try:
    open(path, "w")
except OSError as error:
    print(error.strerror)
"""
    path = pods.create(
        pod(
            "one",
            script,
            volumes=[{"name": "v", "secret": {"secretName": "key", "defaultMode": 0o400}}],
            _volumeMounts=[{"name": "v", "mountPath": "/kernelproto/connection", "readOnly": True}],
            _env=[
                {"name": "K", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "BOTH", "value": "$(K)-$$(K)"},
            ],
        )
    )
    pods.wait_for_phase(path, "Succeeded", "Failed")
    assert pods.cluster.api.get(f"{path}/log").splitlines() == [
        "1 hidden 0o100400 hidden",
        "True one hidden-$(K)",
        "Read-only file system",
    ]
    assert pods.cluster.api.get(f"{path}/log", tailLines=1) == "Read-only file system\n"
    assert not Path("/kernelproto").exists()
    pods.end(path)


def test_a_container_sees_all_kinds_of_volumes(pods: Pods) -> None:
    texts = {"metadata": {"name": "texts"}, "data": {"ONE": "1", "two": "2"}}
    pods.cluster.api.create(f"/api/v1/namespaces/{pods.namespace}/configmaps", texts)
    script = """
import os
print(open("/kernelproto/texts/two").read(), os.listdir("/kernelproto/texts"), os.environ["X_ONE"])
print(open("/kernelproto/all/sub/one").read(), open("/kernelproto/all/labels").read())
print(oct(os.stat("/kernelproto/all/sub/one").st_mode), "LATER" in os.environ)
open("/kernelproto/scratch/file", "w").write("written")
print(open("/kernelproto/scratch/file").read())
"""
    one = {"key": "ONE", "path": "sub/one", "mode": 0o440}
    label = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels['kind']"}}
    projected = [
        {"configMap": {"name": "texts", "items": [one]}},
        {"downwardAPI": {"items": [label]}},
        {"secret": {"name": "none", "optional": True}},
    ]
    two = {"name": "texts", "items": [{"key": "two", "path": "two"}]}
    later = {"secretKeyRef": {"name": "none", "key": "k", "optional": True}}
    names = ("texts", "all", "scratch")
    path = pods.create(
        pod(
            "one",
            script,
            metadata={"labels": {"kind": "test"}},
            volumes=[
                {"name": "texts", "configMap": two},
                {"name": "all", "projected": {"sources": projected}},
                {"name": "scratch", "emptyDir": {}},
            ],
            _volumeMounts=[{"name": name, "mountPath": f"/kernelproto/{name}"} for name in names],
            _envFrom=[{"prefix": "X_", "configMapRef": {"name": "texts"}}],
            _env=[{"name": "LATER", "valueFrom": later}],
        )
    )
    pods.wait_for_phase(path, "Succeeded", "Failed")
    assert pods.cluster.api.get(f"{path}/log").splitlines() == [
        "2 ['two'] 1",
        "1 test",
        "0o100440 False",
        "written",
    ]
    pods.end(path)


def test_a_pod_ends_with_its_last_container(pods: Pods) -> None:
    mount = {"name": "shared", "mountPath": "/kernelproto"}
    body = pod("one", "", volumes=[{"name": "shared", "emptyDir": {}}])
    scripts = {
        "reader": "open('/kernelproto/pipe').read(); exit(4)",
        "writer": "open('/kernelproto/pipe', 'w').close()",
    }
    # The first one to come makes the pipe.
    make = (
        "import contextlib, os\nwith contextlib.suppress(OSError): os.mkfifo('/kernelproto/pipe')\n"
    )
    body["spec"]["containers"] = [
        {
            "name": name,
            "image": "python",
            "command": [sys.executable, "-I", "-c", make + script],
            "volumeMounts": [mount],
        }
        for name, script in scripts.items()
    ]
    path = pods.create(body)
    status = pods.wait_for_phase(path, "Failed")
    codes = {
        one["name"]: one["state"]["terminated"]["exitCode"] for one in status["containerStatuses"]
    }
    assert codes == {"reader": 4, "writer": 0}
    pods.end(path)


def test_deletion_lets_the_process_end_by_itself(pods: Pods, tmp_path: Path) -> None:
    handled = tmp_path / "handled"
    os.mkfifo(handled)
    path = pods.create(pod("one", SLEEP.format(HANDLED.format(str(handled)))))
    uid = pods.cluster.api.get(path)["metadata"]["uid"]
    pods.wait_for_phase(path, "Running")
    handled.read_bytes()
    assert len(pods.cluster.processes(uid)) == 1
    pods.cluster.api.delete(path)
    ended: list[int] = []

    def is_gone(one: dict | None) -> bool:
        if one and "terminated" in one["status"]["containerStatuses"][0]["state"]:
            ended.append(pods.terminated(one["status"])["exitCode"])
        return one is None

    pods.cluster.api.wait_for(path, is_gone)
    assert ended[-1] == 3
    assert pods.cluster.processes(uid) == []


def test_deletion_kills_all_processes_after_the_grace_period(pods: Pods) -> None:
    script = "import os, time; os.fork(); time.sleep(600)"
    path = pods.create(pod("one", script))
    uid = pods.cluster.api.get(path)["metadata"]["uid"]
    pods.wait_for_phase(path, "Running")
    pods.end(path, grace=1)
    assert pods.cluster.processes(uid) == []


def test_deletion_without_grace_kills_the_process(pods: Pods, until_gone) -> None:
    path = pods.create(pod("one", SLEEP.format("")))
    uid = pods.cluster.api.get(path)["metadata"]["uid"]
    pods.wait_for_phase(path, "Running")
    processes = pods.cluster.processes(uid)
    pods.end(path, grace=0)
    for process in processes:
        until_gone(process)


def test_a_process_that_is_killed_from_outside_may_be_out_of_memory(pods: Pods) -> None:
    oom = {"annotations": {"kernelproto.test/oom": "true"}}
    for name, metadata, reason in (("one", {}, "Error"), ("two", oom, "OOMKilled")):
        path = pods.create(pod(name, SLEEP.format(""), metadata=metadata))
        uid = pods.cluster.api.get(path)["metadata"]["uid"]
        pods.wait_for_phase(path, "Running")
        pods.cluster.kill_processes(uid)
        status = pods.wait_for_phase(path, "Failed")
        ended = pods.terminated(status)
        assert (ended["exitCode"], ended["reason"]) == (137, reason)
        pods.end(path)


def test_a_missing_image_is_backed_off(pods: Pods) -> None:
    path = pods.create(pod("one", _image="missing/image:1"))
    message = pods.wait_for_reason(path, "ImagePullBackOff")
    assert message == 'Back-off pulling image "missing/image:1"'
    events = pods.cluster.api.get(f"/api/v1/namespaces/{pods.namespace}/events")["items"]
    assert "Failed" in [event["reason"] for event in events]
    pods.end(path)


def test_an_image_that_is_not_there_yet_delays_the_start(pods: Pods) -> None:
    path = pods.create(pod("one", _image="slow/1/image"))
    states: list[dict] = []

    def has_ended(one: dict | None) -> bool:
        states.extend(state["state"] for state in one["status"].get("containerStatuses", []))
        return one["status"]["phase"] == "Succeeded"

    pods.cluster.api.wait_for(path, has_ended)
    events = pods.cluster.api.get(f"/api/v1/namespaces/{pods.namespace}/events")["items"]
    reasons = [one["reason"] for one in events if one["source"].get("component") == "kubelet"]
    assert sorted(reasons) == ["Pulled", "Pulling", "Started"]
    assert states[-1]["terminated"]["reason"] == "Completed"
    pods.end(path)


def test_an_invalid_name_of_an_image_is_refused(pods: Pods) -> None:
    path = pods.create(pod("one", _image="No Image"))
    message = pods.wait_for_reason(path, "InvalidImageName")
    assert message.endswith("invalid reference format")
    pods.end(path)


def test_a_pod_waits_for_its_secret(pods: Pods) -> None:
    reference = {"secretKeyRef": {"name": "late", "key": "k"}}
    path = pods.create(pod("one", _env=[{"name": "K", "valueFrom": reference}]))
    message = pods.wait_for_reason(path, "CreateContainerConfigError")
    assert message == 'secret "late" not found'
    secret = {"metadata": {"name": "late"}, "data": {"k": ""}}
    pods.cluster.api.create(f"/api/v1/namespaces/{pods.namespace}/secrets", secret)
    pods.wait_for_phase(path, "Succeeded")
    pods.end(path)


def test_a_command_that_does_not_exist_is_a_failure(pods: Pods) -> None:
    path = pods.create(pod("one", _command=["/nowhere/python"]))
    ended = pods.terminated(pods.wait_for_phase(path, "Failed"))
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "/nowhere/python: [Errno 2]" in ended["message"]
    pods.end(path)


def test_a_deadline_ends_a_pod(pods: Pods) -> None:
    path = pods.create(pod("one", SLEEP.format(""), activeDeadlineSeconds=1))
    assert pods.wait_for_phase(path, "Failed")["reason"] == "DeadlineExceeded"
    pods.end(path)


def test_a_node_refuses_pods_that_it_cannot_run(pods: Pods) -> None:
    path = pods.create(pod("one", restartPolicy="Always"))
    status = pods.wait_for_phase(path, "Failed")
    assert status["reason"] == "UnexpectedAdmissionError"
    assert "a restartPolicy other than Never" in status["message"]
    pods.end(path)
