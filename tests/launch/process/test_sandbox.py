"""The model of a sandbox: no process is started here."""

from __future__ import annotations

import msgspec
import pytest

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.process.sandbox import Sandbox, sandbox_environment
from kernelproto.launch.spec.kernelspec import KernelSpec
from kernelproto.launch.spec.plan import Host, LaunchPlan, plan_launch

HOST = Host(python="/usr/bin/python3", prefix="/usr", has_ipc=True, has_curve=True)
PYTHON = ("python3", "-m", "ipykernel_launcher", "-f", "{connection_file}")


def plan(argv: tuple[str, ...] = PYTHON, **launch_params: object) -> LaunchPlan:
    kernelspec = KernelSpec(name="k", resource_dir="/k", argv=argv, display_name="K", language="k")
    return plan_launch("spec", kernelspec, HOST, launch_params=launch_params)


def test_a_sandbox_has_no_network_and_a_read_only_root() -> None:
    sandbox = plan(sandbox={}).sandbox
    assert sandbox == Sandbox(network="none", read_only=True, tmp=64 * 2**20, processes=256)


@pytest.mark.parametrize(
    "wrong",
    [
        {"network": "some"},
        {"seccomp": "strict"},
        {"memory": 0},
        {"cpu": 0},
        {"uid": 0},
        {"processes": 0},
        {"tmp": 0},
        {"hidden": ["relative"]},
        {"visible": ["/with\0zero"]},
        {"writable": {"/data": 0}},
        {"writable": ["/data"]},
        "strict",
        None,
    ],
)
def test_a_setting_that_cannot_be_enforced_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidLaunchParameter, match="launch parameter 'sandbox'"):
        plan(sandbox=wrong)


def test_a_plan_shows_its_sandbox() -> None:
    shown = plan(sandbox={"hidden": ["/data"], "writable": {"/work": None}}).describe()["sandbox"]
    assert list(shown["hidden"]) == ["/data"]
    assert shown["writable"] == {"/work": None}
    assert plan().describe()["sandbox"] is None
    msgspec.json.encode(shown)


def test_a_kernel_without_network_needs_ipc() -> None:
    other = ("r", "{connection_file}")
    with pytest.raises(InvalidLaunchParameter, match="transport='ipc'"):
        plan(other, sandbox={})
    with pytest.raises(InvalidLaunchParameter, match="network 'loopback'"):
        plan(sandbox={"network": "loopback"}, transport="tcp")
    assert plan(other, sandbox={}, transport="ipc").transport == "ipc"
    assert plan(other, sandbox={"network": "full"}).transport == "tcp"


def test_the_sandbox_alone_counts_its_processes() -> None:
    with pytest.raises(InvalidLaunchParameter, match="set processes of the launch parameter"):
        plan(sandbox={}, limits={"processes": 10})
    assert plan(sandbox={}, limits={"memory": 10}).limits == Limits(memory=10)


def test_a_sandboxed_kernel_inherits_no_secrets() -> None:
    inherited = {"PATH": "/bin", "LC_ALL": "C", "AWS_SECRET_ACCESS_KEY": "s", "HOME": "/home/ada"}
    env = plan(sandbox={}, env={"GIVEN": "${PATH}"}).environment(inherited)
    assert env == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "GIVEN": "/bin",
        "HOME": "/tmp/home",
        "TMPDIR": "/tmp",
    }
    assert plan().environment(inherited) == inherited


def test_the_caller_may_choose_the_home_folder() -> None:
    assert sandbox_environment({"HOME": "/work"}, given=["HOME"])["HOME"] == "/work"
