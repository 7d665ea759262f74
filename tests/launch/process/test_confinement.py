"""From a Sandbox to the plan of the program, on this machine."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.process.sandbox import Sandbox, SandboxLimits

if sys.platform != "linux":
    pytest.skip("sandboxes work on Linux only", allow_module_level=True)

from kernelproto.launch.process import confinement
from kernelproto.launch.process.confinement import confine
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.limits import Limits


def plan(*, command: tuple[str, ...] = ("/bin/sh",), **settings: Any) -> dict[str, Any]:
    return confine(Sandbox(**settings), command, sockets=(), limits=None)


def test_homes_and_sockets_of_services_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = plan()["hidden"]
    assert {path for path in ("/run", "/root", "/home", "/var/tmp") if Path(path).is_dir()} <= {
        *hidden
    }
    assert os.path.realpath(Path.home()) in hidden


def test_the_files_of_the_caller_are_hidden_as_well(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert str(tmp_path) in plan(hidden=(str(link),))["hidden"]


def test_an_interpreter_in_a_hidden_folder_is_visible(tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    visible = plan(command=(str(python),), hidden=(str(tmp_path),))["visible"]
    assert str(tmp_path / "env") in visible


def test_a_program_does_not_make_the_hidden_folder_visible_that_it_is_in(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "kernel"
    program.parent.mkdir()
    program.touch(0o755)
    settings = plan(command=(str(program),), hidden=(str(tmp_path),))
    assert str(tmp_path) not in settings["visible"]


@pytest.mark.parametrize("name", ["hidden", "visible", "writable"])
@pytest.mark.parametrize("path", ["/", "/proc", "/dev/null", "/tmp", "/missing"])
def test_paths_that_cannot_be_used_are_refused(name: str, path: str) -> None:
    value: Any = {path: None} if name == "writable" else (path,)
    with pytest.raises(InvalidLaunchParameter, match=f"{name}: '{path}'"):
        plan(**{name: value})


def test_a_quota_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidLaunchParameter, match="is not a folder that can be written to"):
        plan(writable={str(tmp_path / "file"): None})
    with pytest.raises(InvalidLaunchParameter, match="is not a folder"):
        plan(writable={"/etc/passwd": 10_000})
    assert plan(writable={"/tmp/new": 10_000})["private"] == {"/tmp/new": 10_000}


def test_only_root_chooses_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidLaunchParameter, match="only a program of root"):
        plan(uid=1001)
    assert plan(uid=1000)["uid"] == plan()["uid"] == 1000
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert plan()["uid"] == 65534
    assert plan(uid=123456)["gid"] == 123456


@pytest.mark.parametrize("uids", ["0-5", "7-5", "5-4294967295"])
def test_a_range_of_users_is_checked(monkeypatch: pytest.MonkeyPatch, uids: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(InvalidLaunchParameter, match=f"'{uids}' is not a range between 1 and"):
        plan(uid=uids)
    assert plan(uid="5-5")["uids"] == [5, 5]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidLaunchParameter, match="only a program of root"):
        plan(uid="5-5")


def test_limits_are_set_by_the_kernel_itself() -> None:
    import resource

    limits = Limits(memory=10**9, cpu_seconds=5)
    settings = confine(Sandbox(processes=7), ["/bin/sh"], sockets=(), limits=limits)
    assert {
        (resource.RLIMIT_DATA, 10**9, 10**9),
        (resource.RLIMIT_CPU, 5, 6),
        (resource.RLIMIT_NPROC, 7, 7),
        (resource.RLIMIT_CORE, 0, 0),
    } <= set(settings["limits"])


def test_a_machine_without_sandboxes_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "_possible_for", set[tuple[int, bytes]]())
    monkeypatch.setattr(confinement, "wrapped", lambda *_: ["/bin/sh", "-c", "echo why; exit 1"])
    with pytest.raises(InvalidLaunchParameter, match="cannot enforce it: why"):
        confinement.require_sandbox()


@pytest.mark.parametrize(
    ("returncode", "output", "cause"),
    [
        (-signal.SIGSYS, "", "seccomp"),
        (1, "OSError: [Errno 28] No space left on device", "disk_quota"),
        (1, "Resource temporarily unavailable", "processes_limit"),
        (0, "No space left on device", None),
        (1, "", None),
    ],
)
def test_the_reason_for_the_end_of_a_sandboxed_kernel(
    returncode: int, output: str, cause: str | None
) -> None:
    limits = SandboxLimits.of(Sandbox(processes=5), Limits(memory=10**9))
    assert (limits.processes, limits.memory) == (5, 10**9)
    reason = limits.reason(Exit(returncode, cpu_seconds=0, peak_memory=0), output)
    assert (reason and reason.cause) == cause
