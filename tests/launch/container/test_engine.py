from __future__ import annotations

import re
from pathlib import Path

import pytest

from kernelproto.exceptions import LaunchError
from kernelproto.launch.container.arguments import env_file_text, run_arguments
from kernelproto.launch.container.container import in_order
from kernelproto.launch.container.engine import Abilities, Engine, EngineError
from kernelproto.launch.container.preparation import user_of
from kernelproto.launch.container.settings import ContainerKernel

KERNEL = ContainerKernel(image="image", memory=2**30, processes=10)


@pytest.fixture
def program(tmp_path: Path):
    """Give a function that makes a program which prints something and ends."""

    def make(name: str, *, stdout: str = "", stderr: str = "", status: int = 0) -> Engine:
        tmp_path.joinpath("stdout").write_text(stdout)
        tmp_path.joinpath("stderr").write_text(stderr)
        path = tmp_path / name
        path.write_text(
            f"#!/bin/sh\ncat {tmp_path}/stdout\ncat {tmp_path}/stderr >&2\nexit {status}"
        )
        path.chmod(0o755)
        return Engine(str(path), ())

    return make


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "Got permission denied while trying to connect to the Docker daemon socket at unix:///x",
            "this user may not use it",
        ),
        (
            "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
            "start",
        ),
        (
            "Error: cannot set up namespace using newuidmap: exit status 1",
            "this user has no rights",
        ),
        (
            "Error: initializing source docker://r/x: reading manifest latest: unauthorized: "
            "authentication required",
            "the registry refuses this user",
        ),
        (
            "Error: reading manifest latest in docker.io/x: manifest unknown",
            "does not have the image",
        ),
        ("Error: localhost/x:latest: image not known", "is not on this machine"),
        ("docker: Error response from daemon: No such image: x:latest.", "is not on this machine"),
        ("Error: something new", r"refused 'run': Error: something new\Z"),
        ("", r"refused 'run': exit status 125\Z"),
    ],
)
async def test_errors_of_the_engines_have_words(program, stderr: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        await program("podman", stderr=stderr, status=125).call("run", "--env=TOKEN=secret")


@pytest.mark.anyio
async def test_abilities(program) -> None:
    about = '{"host": {"security": {"rootless": true}, "cgroupControllers": ["memory", "pids"]}}'
    found = await program("podman", stdout=about).abilities()
    assert found == Abilities(rootless=True, limits=frozenset({"memory", "pids"}))
    about = '{"SecurityOptions": ["name=seccomp"], "MemoryLimit": true, "PidsLimit": true}'
    found = await program("docker", stdout=about).abilities()
    assert found == Abilities(rootless=False, limits=frozenset({"memory", "pids"}))
    for wrong in ("[]", "{}", "x", '{"host": 1}'):
        with pytest.raises(EngineError, match="described itself wrongly"):
            await program("podman", stdout=wrong).abilities()
    with pytest.raises(EngineError, match="cannot be used: it is away"):
        await program("docker", stdout='{"ServerErrors": ["it is away"]}').abilities()


def test_limits_that_the_engine_would_ignore_are_refused() -> None:
    Abilities(rootless=False, limits=frozenset({"memory", "pids"})).check(KERNEL)
    with pytest.raises(LaunchError, match="cannot limit memory and processes here"):
        Abilities(rootless=True, limits=frozenset({"cpu"})).check(KERNEL)


@pytest.mark.parametrize("kind", ["podman", "docker"])
def test_command_line(kind: str) -> None:
    arguments = run_arguments(
        KERNEL,
        kind=kind,
        name="kernelproto-1",
        labels={"a": "b"},
        shared="/shared",
        log="/log",
        user="1:2",
        keeps_user=False,
        ulimits={"nofile": 1000},
        cwd="/work",
        env={"SECRET": "plain", "QUOTED": '"'},
        env_file="/env",
        command=["python", "-f", "file"],
    )
    assert arguments[0] == "run"
    assert arguments[-4:] == ["--entrypoint=python", "image", "-f", "file"]
    assert {
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--user=1:2",
        "--label=a=b",
        "--memory=1073741824b",
        "--pids-limit=10",
        "--mount=type=bind,source=/shared,target=/run/kernelproto",
        "--mount=type=bind,source=/work,target=/work",
        "--env-file=/env",
        '--env=QUOTED="',
    } <= set(arguments)
    assert not any("SECRET" in argument for argument in arguments)
    assert ("--log-driver=k8s-file" in arguments) == (kind == "podman")


def test_only_plain_values_are_in_the_file_of_variables() -> None:
    env = {
        "A": "a b=c",
        "B": " a",
        "C": "#",
        "D": "",
        "E": "é",
        "F": "a\nb",
        "G H": "x",
        "I": "a" * 99999,
    }
    assert env_file_text(env) == "A=a b=c\nD=\n"


def test_lines_of_both_outputs_are_in_the_order_of_their_times() -> None:
    outputs = "10:00 a b\n10:02 \n10:03 c", "10:01 x\x0by\n"
    assert in_order(*outputs) == "a b\nx\x0by\n\nc"


def test_users(monkeypatch) -> None:
    kernel = ContainerKernel(image="image")
    own = re.compile(r"1000:1000")
    monkeypatch.setattr("os.getuid", lambda: 1000)
    monkeypatch.setattr("os.getgid", lambda: 1000)
    assert user_of(kernel, rootless=True, kind="docker") == ("0:0", False)
    for rootless, kind in ((True, "podman"), (False, "podman"), (False, "docker")):
        user, keeps = user_of(kernel, rootless=rootless, kind=kind)
        assert own.fullmatch(user)
        assert keeps == (rootless and kind == "podman")
    root = ContainerKernel(image="image", user="0:0")
    assert user_of(root, rootless=True, kind="podman") == ("0:0", False)
    monkeypatch.setattr("os.getuid", lambda: 0)
    assert user_of(kernel, rootless=False, kind="docker") == ("65534:65534", False)
