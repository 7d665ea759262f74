from __future__ import annotations

import sys
from types import MappingProxyType

import pytest

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.parameters import (
    LaunchParameters,
    fill_in,
    kernel_environment,
    with_this_python,
)

ARGV = ["kernel", "{connection_file}", "--memory={memory}{unit}"]


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_parameters(nothing) -> None:
    assert LaunchParameters.check(nothing, argv=ARGV) == LaunchParameters()


def test_all_parameters() -> None:
    parameters = LaunchParameters.check(
        MappingProxyType(
            {
                "env": MappingProxyType({"A": "1"}),
                "transport": "ipc",
                "extra_arguments": ["-v"],
                "memory": 5,
                "unit": "GB",
            }
        ),
        argv=ARGV,
    )
    assert parameters == LaunchParameters(
        env={"A": "1"},
        transport="ipc",
        extra_arguments=("-v",),
        values={"memory": "5", "unit": "GB"},
    )


@pytest.mark.parametrize("name", ["connection_file", "kernel_id", "prefix", "resource_dir"])
def test_system_names_win(name) -> None:
    argv = [f"{{{name}}}"]
    assert LaunchParameters.check({name: object()}, argv=argv) == LaunchParameters()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env", None),
        ("env", [("A", "1")]),
        ("env", {"A": 1}),
        ("env", {1: "A"}),
        ("transport", "udp"),
        ("transport", None),
        ("extra_arguments", "-v"),
        ("extra_arguments", [1]),
        ("memory", None),
        ("memory", True),
        ("memory", ["5"]),
        ("memory", b"5"),
    ],
)
def test_values_of_the_wrong_kind(name, value) -> None:
    with pytest.raises(InvalidLaunchParameter, match=f"'{name}' must be"):
        LaunchParameters.check({name: value}, argv=ARGV)


def test_parameters_without_effect() -> None:
    with pytest.raises(InvalidLaunchParameter, match=r"'evn'.*env, extra_arguments, memory"):
        LaunchParameters.check({"evn": {}}, argv=ARGV)


def test_fill_in() -> None:
    argv = ["{a}-{b}", "{ a }", "{c}", "{}", "{{a}}"]
    assert fill_in(argv, {"a": "{b}", "b": "2"}) == ["{b}-2", "{ a }", "{c}", "{}", "{{b}}"]


THIS_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize("name", ["python", "python3", THIS_VERSION])
def test_python_is_this_python(name) -> None:
    assert with_this_python([name, "-m", name]) == [sys.executable, "-m", name]


@pytest.mark.parametrize("name", ["python2", "python3.0", "/usr/bin/python", "R"])
def test_other_programs_stay(name) -> None:
    assert with_this_python([name]) == [name]


def test_environment(monkeypatch) -> None:
    for name, value in {"OURS": "1", "THEIRS": "1", "CALLERS": "1"}.items():
        monkeypatch.setenv(name, value)
    env = kernel_environment(
        {"THEIRS": "${OURS}+2", "CALLERS": "2", "KEPT": "${NOT_SET_ANYWHERE}"},
        {"CALLERS": "${OURS}+3"},
    )
    assert env["OURS"] == "1"
    assert env["THEIRS"] == "1+2"
    assert env["CALLERS"] == "${OURS}+3"
    assert env["KEPT"] == "${NOT_SET_ANYWHERE}"
