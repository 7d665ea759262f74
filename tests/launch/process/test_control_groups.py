"""Control groups: where new ones are made, with version 1 and with version 2."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("control groups are those of Linux", allow_module_level=True)

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.process.control_groups import ControlGroups, groups_fault, parent_of_groups
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.programs.watchdog import remove_files

MOUNTS = """
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /groups/cpu rw,nosuid,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/1 /groups/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /groups/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
GROUPS = "9:name=systemd:/x\n4:memory:/docker/1/a:b\n1:cpu,cpuacct:/\n"


def proc(folder: Path, mounts: str, groups: str) -> str:
    (folder / "mountinfo").write_text(mounts)
    (folder / "cgroup").write_text(groups)
    return str(folder)


def test_version_1_has_a_hierarchy_for_each_controller(tmp_path: Path) -> None:
    here = proc(tmp_path, MOUNTS.lstrip(), GROUPS)
    assert parent_of_groups("memory", here) == ("/groups/memory/a:b", 1)
    assert parent_of_groups("cpu", here) == ("/groups/cpu", 1)
    with pytest.raises(LookupError, match="no such control groups"):
        parent_of_groups("pids", here)
    outside = proc(tmp_path, MOUNTS.lstrip(), GROUPS.replace("/docker/1/a:b", "/docker/2"))
    with pytest.raises(LookupError, match="/docker/2 is not mounted"):
        parent_of_groups("memory", outside)


@pytest.fixture
def unified(tmp_path: Path) -> Path:
    """A folder with the files of version 2, and this process in its group /service/main."""
    own = tmp_path / "top" / "service" / "main"
    own.mkdir(parents=True)
    for folder in (own, own.parent):
        (folder / "cgroup.controllers").write_text("cpu memory pids\n")
        (folder / "cgroup.subtree_control").write_text("")
    mounts = f"30 23 0:26 / {tmp_path}/top rw - cgroup2 cgroup2 rw,nsdelegate\n"
    proc(tmp_path, mounts, "0::/service/main\n")
    return tmp_path


def test_version_2_needs_a_delegated_group(unified: Path) -> None:
    own = unified / "top" / "service" / "main"
    (own / "cgroup.subtree_control").unlink()
    (own / "cgroup.subtree_control").mkdir()  # Linux refuses to write: the group has processes
    with pytest.raises(LookupError, match="has not been delegated to this program: run"):
        parent_of_groups("memory", str(unified))
    try:
        os.setxattr(own.parent, "user.delegate", b"1")
    except OSError:
        pytest.skip("this file system has no attributes")
    assert parent_of_groups("memory", str(unified)) == (str(own.parent), 2)
    assert (own.parent / "cgroup.subtree_control").read_text() == "+memory"
    with pytest.raises(LookupError, match="has no such controller"):
        parent_of_groups("io", str(unified))


def test_a_group_without_processes_of_its_own_is_used(unified: Path) -> None:
    own = unified / "top" / "service" / "main"
    assert parent_of_groups("cpu", str(unified)) == (str(own), 2)
    (own / "cgroup.subtree_control").write_text("cpu memory\n")
    assert parent_of_groups("memory", str(unified)) == (str(own), 2)
    assert (own / "cgroup.subtree_control").read_text() == "cpu memory\n"


def test_the_files_of_version_2(unified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "kernelproto.launch.process.control_groups.parent_of_groups",
        lambda controller: (str(unified), 2),
    )
    groups = ControlGroups("1", Sandbox(memory=1000, cpu=0.25))
    groups.make()
    folder = unified / "kernelproto-1"
    assert groups.paths == (str(folder),)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "cpu.max": "25000 100000",
        "memory.max": "1000",
    }
    killed = Exit(-signal.SIGKILL, cpu_seconds=0, peak_memory=0)
    assert groups.reason(killed) is None
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\noom_group_kill 0\n")
    reason = groups.reason(killed)
    assert reason is not None
    assert reason.cause == "memory_limit"
    assert groups.reason(Exit(1, cpu_seconds=0, peak_memory=0)) is None


def test_a_sandbox_without_such_limits_has_no_groups() -> None:
    assert ControlGroups("1", Sandbox()).paths == ()
    assert groups_fault(Sandbox()) is None


def test_a_group_that_exists_is_refused_and_stays() -> None:
    limits = Sandbox(memory=2**30)
    if (fault := groups_fault(limits)) is not None:
        pytest.skip(fault)
    groups = ControlGroups("test", limits)
    groups.make()
    try:
        with pytest.raises(InvalidLaunchParameter, match="cannot be made: File exists"):
            ControlGroups("test", limits).make()
        assert all(map(os.path.exists, groups.paths))
    finally:
        groups.remove()
    assert [path for path in groups.paths if os.path.exists(path)] == []


def test_a_folder_with_files_is_no_control_group(tmp_path: Path) -> None:
    folder = tmp_path / "kernelproto-1"
    folder.mkdir()
    (folder / "file").touch()
    remove_files([os.fsencode(folder)])
    assert folder.exists()
