from __future__ import annotations

import math
import os
from pathlib import Path

from kernelproto.launch.programs.batch_job import Lease


def test_lease_is_over_without_a_change(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    path.touch()
    lease = Lease(str(path), 0.0)
    assert not lease.is_over()
    assert lease.is_over()
    os.utime(path, (1.0, 1.0))
    assert not lease.is_over()
    assert lease.is_over()


def test_lease_without_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    path.touch()
    lease = Lease(str(path), None, 0.0)
    assert not lease.is_over()
    assert not lease.is_over()


def test_lease_is_over_without_its_file(tmp_path: Path) -> None:
    for seconds in (None, math.inf):
        lease = Lease(str(tmp_path / "lease"), seconds, 0.0)
        assert not lease.is_over()
        assert lease.is_over()


def test_lease_whose_file_cannot_be_read_is_not_over(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    path.symlink_to(path)
    lease = Lease(str(path), None, 0.0)
    assert not lease.is_over()
    assert not lease.is_over()
