"""The Kubernetes of the tests, and providers that have only the rights of the manifests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kernelproto.kubernetes import KubernetesProvider, PodKernel
from tests.launch.kubernetes.cluster import Cluster
from tests.launch.kubernetes.conftest import kubernetes, namespace

__all__ = ["kubernetes", "namespace"]

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"

COMMAND = (sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}")


class Kernels:
    """The namespace of a test, with the service account of the manifests."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        for manifest in yaml.safe_load_all((MANIFESTS / "rbac.yaml").read_text()):
            manifest["metadata"]["namespace"] = namespace
            for subject in manifest.get("subjects", []):
                subject["namespace"] = namespace
            cluster.api.apply(manifest)
        token = cluster.service_account_token(namespace, "kernelproto")
        self.kubeconfig = str(
            cluster.kubeconfig(folder / "kubeconfig", namespace=namespace, token=token)
        )

    def kernel(self, *command: str, **settings: Any) -> PodKernel:
        return PodKernel(
            **{
                "image": "local/python",
                "python": sys.executable,
                "command": command or COMMAND,
                "lost_seconds": 2,
                **settings,
            }
        )

    def provider(self, **kernels: PodKernel) -> KubernetesProvider:
        return KubernetesProvider(kernels or {"python": self.kernel()}, kubeconfig=self.kubeconfig)

    def pods(self) -> list[dict[str, Any]]:
        return self.cluster.pods(self.namespace)

    def secrets(self) -> list[str]:
        found = self.cluster.api.get(f"/api/v1/namespaces/{self.namespace}/secrets")
        names = [each["metadata"]["name"] for each in found["items"]]
        return [name for name in names if name.startswith("kernelproto-") and "token" not in name]

    def is_empty(self) -> bool:
        return not self.pods() and not self.secrets()


@pytest.fixture
def kernels(kubernetes: Cluster, namespace: str, tmp_path: Path) -> Iterator[Kernels]:
    """Give the namespace; after the test neither pods nor Secrets of kernels are left."""
    kernels = Kernels(kubernetes, namespace, tmp_path)
    yield kernels
    kubernetes.wait_until(kernels.is_empty, "the pods and Secrets of kernels to be gone")


@pytest.fixture
def provider(kernels: Kernels) -> KubernetesProvider:
    return kernels.provider()
