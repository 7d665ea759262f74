from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.launch.container.podman import NoPodman, Podman


@pytest.fixture(scope="session")
def engine() -> Iterator[Podman]:
    """Give a podman of these tests' own, or skip the tests."""
    try:
        podman = Podman()
    except NoPodman as error:
        pytest.skip(str(error))
    yield podman
    podman.close()


@pytest.fixture
def podman(engine: Podman) -> Iterator[Podman]:
    """Give the podman, and check that the test leaves no container behind."""
    assert engine.containers() == set()
    yield engine
    left = engine.containers()
    for name in left:
        engine.run("rm", "--force", "--time=0", name)
    assert left == set()
