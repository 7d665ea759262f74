from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.launch.container.docker import Docker
from tests.launch.container.podman import NoPodman, Podman


@pytest.fixture(scope="session", params=[Podman, Docker])
def opened(request) -> Iterator[Podman]:
    """Give an engine of these tests' own, or skip the tests."""
    try:
        engine = request.param()
    except NoPodman as error:
        pytest.skip(str(error))
    yield engine
    engine.close()


@pytest.fixture
def engine(opened: Podman) -> Iterator[Podman]:
    """Give the engine, and check that the test leaves no container behind."""
    assert opened.containers() == set()
    yield opened
    left = opened.containers()
    for name in left:
        opened.run("rm", "--force", name)
    assert left == set()
