from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernelproto.launch import entrypoints as module
from kernelproto.launch.entrypoints import declared_providers


@pytest.fixture(autouse=True)
def forget_the_last_scan(monkeypatch) -> None:
    monkeypatch.setattr(module, "_last_scan", None)


@pytest.fixture
def scans(monkeypatch) -> list[str]:
    """Give a list that grows with every scan of the installed packages."""
    scans: list[str] = []
    entry_points = importlib.metadata.entry_points

    def scan(group: str):
        scans.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(importlib.metadata, "entry_points", scan)
    return scans


@pytest.fixture
def settled(packages) -> Callable[[], None]:
    """Give a function that makes all folders of the search path look as if changed long ago."""
    number = 0

    def settle() -> None:
        nonlocal number
        number += 1
        os.utime(packages, (number, number))

    return settle


@pytest.fixture
def short_search_path(packages, monkeypatch) -> None:
    """Leave nothing on the search path that this test has not made."""
    monkeypatch.setattr(sys, "path", [str(packages), str(packages / "missing")])


def names() -> list[str]:
    return sorted(entry_point.name for entry_point in declared_providers())


def test_our_own_are_declared() -> None:
    assert {"pyimport", "spec"} <= set(names())


@pytest.mark.usefixtures("short_search_path")
def test_installed_and_removed_packages_are_noticed(packages, declare, settled, scans) -> None:
    settled()
    assert names() == names() == []
    assert len(scans) == 1
    declare("first", a="x:X")
    assert names() == ["a"]
    settled()
    assert names() == names() == ["a"]
    assert len(scans) == 3
    shutil.rmtree(packages / "first-1.0.dist-info")
    assert names() == []


@pytest.mark.usefixtures("short_search_path")
def test_what_has_just_changed_may_change_again_unnoticed(packages, declare, scans) -> None:
    declare("first", a="x:X")
    assert names() == ["a"]
    time = os.stat(packages).st_mtime_ns
    declare("second", b="x:X")
    os.utime(packages, ns=(time, time))  # within one tick of the clock
    declared_providers()
    assert len(scans) == 2


@pytest.mark.usefixtures("short_search_path")
def test_the_search_path_may_change(declare, settled, scans, monkeypatch) -> None:
    declare("first", a="x:X")
    settled()
    assert names() == ["a"]
    monkeypatch.setattr(sys, "path", [])
    assert names() == []
    monkeypatch.setattr(sys, "meta_path", [])
    assert names() == []
    assert len(scans) == 3


@pytest.mark.usefixtures("short_search_path")
def test_the_current_folder_may_be_on_it_and_change(
    packages: Path, declare, settled, monkeypatch, tmp_path
) -> None:
    declare("first", a="x:X")
    settled()
    os.utime(tmp_path, (1, 1))
    monkeypatch.setattr(sys, "path", [""])
    monkeypatch.chdir(tmp_path)
    assert names() == []
    monkeypatch.chdir(packages)
    assert names() == ["a"]
