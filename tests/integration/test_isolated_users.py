"""Isolated users who look for each other; ``isolated_users`` has 50 of them."""

from __future__ import annotations

import os
import sys

import pytest

if sys.platform != "linux" or os.geteuid() != 0:
    pytest.skip("only root can isolate users, on Linux", allow_module_level=True)

from kernelproto.launch.process.confinement import users_fault
from tests.integration.isolated_users import look_for_others

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_users_see_nothing_of_each_other() -> None:
    if (fault := users_fault()) is not None:
        pytest.skip(fault)
    assert look_for_others(4, 1).total() == 0
