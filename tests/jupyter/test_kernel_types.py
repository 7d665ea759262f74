from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernelproto.jupyter.kernel_types import (
    ForkingKernelSpecProvider,
    jupyter_kernels,
    with_own_ipykernel,
)
from kernelproto.launch import LaunchPlan
from kernelproto.launch.programs import ipykernel
from kernelproto.launch.spec.own_python import forks_kernelspecs

forking = pytest.mark.skipif(
    not forks_kernelspecs(), reason="kernelspecs are not forked on this system"
)

LAUNCHER = ("python", "-m", "ipykernel_launcher", "-f", "{connection_file}")


def plan_of(name: str, **params: object) -> LaunchPlan:
    return ForkingKernelSpecProvider().plan(name, launch_params=params)


@forking
def test_own_ipykernel_is_forked(kernelspec: Callable[..., Path]) -> None:
    kernelspec("own", [*LAUNCHER, "--debug"], env={"A": "1"})
    plan = plan_of("own", extra_arguments=["--quiet"])
    assert plan.spawn == "fork"
    assert plan.argv[2:] == (ipykernel.__file__, "-f", "{connection_file}", "--debug", "--quiet")
    assert (plan.kernel_type, plan.kernelspec_env) == ("spec/own", {"A": "1"})


@pytest.mark.parametrize(
    "params",
    [{"detached": True}, {"env": {"PYTHONHASHSEED": "1"}}, {"env": {"OMP_NUM_THREADS": "1"}}],
)
def test_own_ipykernel_that_cannot_be_forked(kernelspec, params: dict[str, object]) -> None:
    kernelspec("own", LAUNCHER)
    plan = plan_of("own", **params)
    assert plan.spawn == "process"
    assert plan.argv[2] == ipykernel.__file__


def test_no_kernelspec_is_forked_if_the_user_says_so(kernelspec, monkeypatch) -> None:
    kernelspec("own", LAUNCHER)
    monkeypatch.setenv("KERNELPROTO_FORK_PYTHON3", "0")
    assert plan_of("own").spawn == "process"


@forking
def test_fork_is_a_choice() -> None:
    argv = (sys.executable, *LAUNCHER[1:])
    assert with_own_ipykernel(LaunchPlan(argv=argv), fork=False).spawn == "process"
    assert with_own_ipykernel(LaunchPlan(argv=argv), preload=["json"]).preload == ("json",)


def test_other_kernels_stay_as_they_are(kernelspec: Callable[..., Path]) -> None:
    kernelspec("other", ["bash", "{connection_file}"])
    plan = plan_of("other")
    assert (plan.spawn, plan.argv) == ("process", ("bash", "{connection_file}"))


@forking
@pytest.mark.asyncio
async def test_finder_prefers_this_provider(
    kernelspec: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    kernelspec("own", LAUNCHER)
    finder = jupyter_kernels()
    assert (await finder.plan("own")).spawn == "fork"
    assert (await finder.plan("pyimport/kernel")).spawn == "process"
    assert caplog.messages == []
