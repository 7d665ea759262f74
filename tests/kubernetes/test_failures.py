from __future__ import annotations

from typing import Any

import pytest

from kernelproto.kubernetes.failures import (
    api_error,
    node_problem,
    pending_reason,
    pod_end,
    quote,
    runs,
)


@pytest.mark.parametrize(
    ("status", "message", "fault", "words"),
    [
        (
            403,
            'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods" in '
            'API group "" in the namespace "kernels"',
            "forbidden",
            "'system:serviceaccount:a:b' may not create pods in the namespace 'kernels': grant",
        ),
        (
            403,
            'nodes "n1" is forbidden: User "u" cannot get resource "nodes" in API group "" at the '
            "cluster scope",
            "forbidden",
            "'u' may not get nodes: grant this right",
        ),
        (
            403,
            'pods "p" is forbidden: exceeded quota: few, requested: cpu=1, used: cpu=4, limited: '
            "cpu=4",
            "quota",
            "(few, requested: cpu=1, used: cpu=4, limited: cpu=4): end other kernels",
        ),
        (403, 'pods "p" is forbidden: violates PodSecurity', "admission", "violates PodSecurity"),
        (400, "admission webhook denied the request", "invalid", "webhook denied"),
        (401, "Unauthorized", "unauthorized", "refuses the credentials"),
        (409, "exists", "conflict", "exists"),
        (410, "too old", "expired", "too old"),
        (503, "", "busy", ""),
        (418, "tea", "other", "tea"),
    ],
)
def test_errors_of_the_api(status: int, message: str, fault: str, words: str) -> None:
    error = api_error("cannot create pod 'p'", status, message)
    assert (error.fault, error.status) == (fault, status)
    assert str(error).startswith("cannot create pod 'p': ")
    assert words in str(error)


def test_texts_of_the_cluster_are_short_and_on_one_line() -> None:
    assert quote("a\nb\x1b[31m") == "a b [31m"
    assert len(quote("x" * 10_000)) == 603


def pod(phase: str = "Pending", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "uid": "1"},
        "spec": {"nodeName": "n1"},
        "status": {"phase": phase, **status},
    }


def container(**state: Any) -> dict[str, Any]:
    return {"name": "kernel", "image": "an/image", "ready": "running" in state, "state": state}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod(containerStatuses=[container(waiting={"reason": reason, "message": message})])


@pytest.mark.parametrize(
    ("body", "words", "is_hopeless", "of_image"),
    [
        ({"status": {}}, "waits for a node", False, False),
        (
            pod(
                conditions=[
                    {"type": "PodScheduled", "status": "False", "message": "0/2 nodes: cpu"}
                ]
            ),
            "no node can run it (0/2 nodes: cpu)",
            False,
            False,
        ),
        (pod(), "node 'n1' prepares its container", False, False),
        (waiting("ContainerCreating"), "node 'n1' prepares", False, False),
        (
            waiting("ErrImagePull", "not found"),
            "its image 'an/image' cannot be started (ErrImagePull: not found)",
            False,
            True,
        ),
        (waiting("ImagePullBackOff"), "(ImagePullBackOff)", False, True),
        (waiting("InvalidImageName"), "(InvalidImageName)", True, True),
        (waiting("CreateContainerConfigError", "x"), "its container waits (Create", False, False),
    ],
)
def test_reasons_of_pending_pods(
    body: dict[str, Any], words: str, is_hopeless: bool, of_image: bool
) -> None:
    reason = pending_reason(body)
    assert words in reason
    assert (reason.is_hopeless, reason.of_image) == (is_hopeless, of_image)
    assert not runs(body)
    assert pod_end(body) is None


def running(ready: str, **more: Any) -> dict[str, Any]:
    return pod(
        "Running",
        podIP="10.0.0.1",
        conditions=[{"type": "Ready", "status": ready}],
        containerStatuses=[container(running={})],
        **more,
    )


def test_running_pod() -> None:
    body = running("True")
    assert runs(body)
    assert pod_end(body) is None
    assert node_problem(body) is None


def test_pod_of_a_lost_node_has_ended_when_it_is_to_be_deleted() -> None:
    body = running("False")
    assert node_problem(body) == "its node 'n1' is not ready"
    assert pod_end(body) is None
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    end = pod_end(body)
    assert end is not None
    assert end.words == "its node 'n1' was lost"


def test_pod_that_ends_normally_is_not_lost() -> None:
    body = running("True")
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pod_end(body) is None


@pytest.mark.parametrize(
    ("body", "words", "cause", "returncode"),
    [
        (None, "was deleted", "other", None),
        (
            pod("Failed", reason="Evicted", message="The node was low on memory"),
            "(Evicted: The node was low on memory)",
            "other",
            None,
        ),
        (
            pod(
                "Failed",
                containerStatuses=[container(terminated={"exitCode": 137, "reason": "OOMKilled"})],
            ),
            "more than its memory limit (OOMKilled)",
            "memory_limit",
            -9,
        ),
        (
            pod(
                "Failed",
                containerStatuses=[container(terminated={"exitCode": 3, "reason": "Error"})],
            ),
            "its pod has ended (Error)",
            "other",
            3,
        ),
        (pod("Succeeded"), "its pod has ended (no reason)", "other", None),
    ],
)
def test_ends_of_pods(
    body: dict[str, Any] | None, words: str, cause: str, returncode: int | None
) -> None:
    end = pod_end(body)
    assert end is not None
    assert words in end.words
    assert (end.cause, end.returncode) == (cause, returncode)


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "was deleted"), (143, "was deleted"), (137, "was deleted"), (3, "has ended (Error)")],
)
def test_pod_that_ends_while_it_is_deleted(code: int, words: str) -> None:
    ended = {"exitCode": code, "reason": "Error" if code else "Completed"}
    body = pod("Failed" if code else "Succeeded", containerStatuses=[container(terminated=ended)])
    body.setdefault("metadata", {})["deletionTimestamp"] = "2026-11-30T12:00:00Z"
    end = pod_end(body)
    assert end is not None
    assert words in end.words
