"""Kernels in containers of an ordinary user, with and without ranges in subuid and subgid."""

from __future__ import annotations

import pytest

from tests.launch.container.podman import NoPodman
from tests.launch.container.rootless import run


def rootless(*, ranges: bool) -> dict[str, object]:
    try:
        return run(ranges=ranges)
    except NoPodman as error:
        pytest.skip(str(error))


def test_user_with_ranges_has_the_same_number_in_the_container(no_leaks) -> None:
    found = rootless(ranges=True)
    assert found["default"] == "4200000\n"
    assert found["root"] == "0\n"
    assert found["left"] == []


def test_user_without_ranges_is_root_in_the_container(no_leaks) -> None:
    found = rootless(ranges=False)
    assert "add a range of users for it to /etc/subuid" in str(found["default"])
    assert "or set user of the kernel type to '0:0'" in str(found["default"])
    assert found["root"] == "0\n"
    assert found["left"] == []
