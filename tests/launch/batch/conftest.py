from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.launch.batch.cluster import Cluster, NoSlurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Give a Slurm of these tests' own, or skip the tests."""
    try:
        cluster = Cluster()
    except NoSlurm as error:
        pytest.skip(str(error))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(slurm: Cluster) -> Iterator[Cluster]:
    """Give the cluster, and check that the test leaves no job and no folder behind."""
    assert slurm.jobs() == []
    yield slurm
    jobs = [job for job in slurm.jobs() if "COMPLETING" not in job]
    for job in jobs:
        slurm.call("scancel", job.split()[0])
    assert jobs == []
