from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.launch.kubernetes.binaries import NoKubernetes
from tests.launch.kubernetes.cluster import Cluster
from tests.launch.kubernetes.pods import Pods


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Cluster]:
    """Give a Kubernetes of these tests' own, or skip the tests."""
    try:
        cluster = Cluster()
    except NoKubernetes as error:
        pytest.skip(str(error))
    yield cluster
    cluster.close()


@pytest.fixture
def namespace(kubernetes: Cluster) -> Iterator[str]:
    """Give a new namespace, and check that the test leaves no pod behind."""
    name = kubernetes.new_namespace()
    yield name
    pods = [pod["metadata"]["name"] for pod in kubernetes.pods(name)]
    path = f"/api/v1/namespaces/{name}/pods"
    kubernetes.api.delete(path, gracePeriodSeconds=0)
    kubernetes.api.delete(f"/api/v1/namespaces/{name}")
    assert pods == []


@pytest.fixture
def pods(kubernetes: Cluster, namespace: str) -> Pods:
    return Pods(kubernetes, namespace)
