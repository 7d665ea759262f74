"""The pods of the tests with Kubernetes."""

from __future__ import annotations

import sys

from tests.launch.kubernetes.cluster import Cluster

HANDLED = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); open({!r}, 'w').close(); "
SLEEP = "import signal, sys; {}signal.pause()"


def pod(name: str, script: str = "", **spec: object) -> dict:
    """Return a pod that executes Python code; fields of its only container begin with an _."""
    container = {
        "name": "main",
        "image": "python",
        "command": [sys.executable, "-I", "-c", script],
        **{key[1:]: value for key, value in spec.items() if key.startswith("_")},
    }
    fields = {key: value for key, value in spec.items() if not key.startswith("_")}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **fields.pop("metadata", {})},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 30,
            "containers": [container],
            **fields,
        },
    }


class Pods:
    """The pods of a test."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.folder = f"/api/v1/namespaces/{namespace}/pods"
        self.namespace = namespace

    def create(self, body: dict) -> str:
        """Create a pod and return its path."""
        return f"{self.folder}/{self.cluster.api.create(self.folder, body)['metadata']['name']}"

    def wait_for_phase(self, path: str, *phases: str) -> dict:
        """Wait until a pod is in one of the phases; return its status."""
        found = self.cluster.api.wait_for(
            path, lambda one: one is not None and one["status"]["phase"] in phases
        )
        assert found is not None
        return found["status"]

    def wait_for_reason(self, path: str, reason: str) -> str:
        """Wait until the container of a pod waits for a reason; return the message."""

        def waits(one: dict | None) -> bool:
            states = one["status"].get("containerStatuses", []) if one else []
            return any(
                state["state"].get("waiting", {}).get("reason") == reason for state in states
            )

        found = self.cluster.api.wait_for(path, waits)
        assert found is not None
        return found["status"]["containerStatuses"][0]["state"]["waiting"]["message"]

    def end(self, path: str, grace: int = 1) -> None:
        """Delete a pod and wait until it is gone."""
        self.cluster.api.delete(path, gracePeriodSeconds=grace)
        self.cluster.api.wait_for(path, lambda one: one is None)

    def terminated(self, status: dict) -> dict:
        return status["containerStatuses"][0]["state"]["terminated"]
