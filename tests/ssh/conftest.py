"""An sshd for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ssh.sshd import Sshd, running_sshd


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    """Give a real sshd on loopback, with an ordinary user; skip the test without one."""
    with running_sshd() as server:
        yield server
