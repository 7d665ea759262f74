from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.spec.kernelspec import KernelSpec
from kernelproto.launch.spec.own_python import can_fork, can_fork_plan, own_arguments
from kernelproto.launch.spec.plan import LaunchPlan

FILE = ("-f", "{connection_file}")


def arguments_of(*argv: str, **entries) -> tuple[str, ...] | None:
    kernelspec = KernelSpec(name="python3", resource_dir="/", argv=argv, **entries)
    return own_arguments(kernelspec, sys.executable)


@pytest.mark.parametrize(
    ("argv", "arguments"),
    [
        (["python", "-m", "ipykernel_launcher", *FILE], FILE),
        (["python3", "-m", "ipykernel", *FILE, "--pylab"], (*FILE, "--pylab")),
        ([sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", *FILE], FILE),
        ([sys.executable, "-X", "frozen_modules=off", "-m", "ipykernel_launcher", *FILE], FILE),
        (["python", "-O", "-m", "ipykernel_launcher", *FILE], None),
        (["python", "-I", "-m", "ipykernel_launcher", *FILE], None),
        (["python", "-m", "bash_kernel", *FILE], None),
        (["python", "-m"], None),
        (["python", "launcher.py", *FILE], None),
        (["/usr/bin/env", "python", "-m", "ipykernel_launcher", *FILE], None),
        (["bin/python", "-m", "ipykernel_launcher", *FILE], None),
        (["/nowhere/python", "-m", "ipykernel_launcher", *FILE], None),
    ],
)
def test_command_line(argv, arguments) -> None:
    assert arguments_of(*argv) == arguments


def test_interpreter_under_another_name(tmp_path: Path) -> None:
    """Two virtual environments link to the same interpreter."""
    for environment in ("one", "two"):
        (tmp_path / environment).mkdir()
        for name in ("python", "python3"):
            (tmp_path / environment / name).symlink_to(sys.executable)
    kernelspec = KernelSpec(
        name="python3",
        resource_dir="/",
        argv=(str(tmp_path / "one" / "python3"), "-m", "ipykernel_launcher", *FILE),
    )
    assert own_arguments(kernelspec, str(tmp_path / "one" / "python")) == FILE
    assert own_arguments(kernelspec, str(tmp_path / "two" / "python")) is None


@pytest.mark.parametrize(
    ("env", "forks"),
    [
        ({"NAME": "value", "MPLBACKEND": "agg", "HOMEPAGE": "x"}, True),
        ({"HOME": "/home/ada"}, True),
        ({"HOME": "/home/eve"}, False),
        ({"PYTHONPATH": "/"}, False),
        ({"LD_PRELOAD": "x"}, False),
        ({"OMP_NUM_THREADS": "1"}, False),
        ({"LC_ALL": "C"}, False),
        ({"HOME": "${HOME}"}, False),
    ],
)
def test_variables_that_are_read_at_the_start(monkeypatch, env, forks) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("LC_ALL", raising=False)
    argv = ("python", "-m", "ipykernel_launcher", *FILE)
    assert (arguments_of(*argv, env=env) is not None) is forks
    assert can_fork({"env": env}) is forks


def test_another_launcher() -> None:
    metadata = {"kernel_provisioner": {"provisioner_name": "docker-provisioner"}}
    assert arguments_of("python", "-m", "ipykernel_launcher", *FILE, metadata=metadata) is None


@pytest.mark.parametrize(
    ("launch_params", "forks"),
    [
        (None, True),
        ({"detached": True}, True),
        ({"detached": False, "transport": "tcp"}, True),
        ({"env": "wrong"}, True),
    ],
)
def test_launch_parameters(launch_params, forks) -> None:
    assert can_fork(launch_params) is forks


@pytest.mark.parametrize(
    ("entries", "forks"),
    [
        ({"env": {"NAME": "value"}, "kernelspec_env": {"HOME": "${HOME}"}}, True),
        ({"env": {"OMP_NUM_THREADS": "1"}}, False),
        ({"unset": ("HOME",)}, False),
        ({"inherited": {"HOME": "/home/ada", "NAME": "value"}}, False),
        ({"sandbox": Sandbox()}, True),
        ({"sandbox": Sandbox(), "env": {"HOME": "/home/ada"}}, False),
        ({"detached": True}, False),
    ],
)
def test_variables_of_a_plan(monkeypatch, entries, forks) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert can_fork_plan(LaunchPlan(argv=("python",), **entries)) is forks
