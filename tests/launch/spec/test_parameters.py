from __future__ import annotations

import os
import sys
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.spec.parameters import (
    LaunchParameters,
    fill_in,
    kernel_environment,
    literal,
    with_this_python,
)
from kernelproto.launch.spec.schema import ParameterSchema

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
        ("env", {"": "1"}),
        ("env", {"A=B": "1"}),
        ("env", {"A\0": "1"}),
        ("env", {"A": "\0"}),
        ("transport", "udp"),
        ("transport", None),
        ("extra_arguments", "-v"),
        ("extra_arguments", [1]),
        ("extra_arguments", ["\0"]),
        ("memory", None),
        ("memory", True),
        ("memory", ["5"]),
        ("memory", b"5"),
        ("memory", "\0"),
        ("memory", 2**63),
    ],
)
def test_values_of_the_wrong_kind(name, value) -> None:
    with pytest.raises(InvalidLaunchParameter, match=f"'{name}' must be"):
        LaunchParameters.check({name: value}, argv=ARGV)


def test_parameters_without_effect() -> None:
    with pytest.raises(InvalidLaunchParameter, match=r"'evn'.*it takes env, .*memory"):
        LaunchParameters.check({"evn": {}}, argv=ARGV)


def described(**schema: object) -> ParameterSchema:
    return ParameterSchema(schema, path="/some/kernel.json", key="metadata.parameters")


SIZES = described(
    properties={
        "memory": {"type": "integer", "maximum": 9, "default": 4},
        "unit": {"enum": ["GB", "MB"], "default": "GB"},
        "disks": {"type": "array", "items": {"type": "integer"}},
    }
)


def test_defaults_of_the_schema() -> None:
    assert LaunchParameters.check({}, argv=ARGV, schema=SIZES).values == {
        "memory": "4",
        "unit": "GB",
    }


def test_declared_parameter_needs_no_braces() -> None:
    parameters = LaunchParameters.check({"disks": (1, 2)}, argv=["kernel"], schema=SIZES)
    assert parameters.values["disks"] == "[1, 2]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        (5, "5"),
        (0.5, "0.5"),
        (True, "true"),
        (None, "null"),
        (MappingProxyType({"a": ["ü", 1]}), '{"a": ["ü", 1]}'),
    ],
)
def test_values_are_written_as_json_but_strings_as_they_are(value, text) -> None:
    parameters = LaunchParameters.check(
        {"any": value}, argv=["{any}"], schema=described(properties={"any": {}})
    )
    assert parameters.values == {"any": text}


class Unheard: ...


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        Unheard(),
        b"5",
        {1: "a"},
        [Unheard()],
        {"a": {2}},
        float("nan"),
        float("inf"),
        nested(99),
        2**63,
    ],
)
def test_values_that_json_does_not_have(value) -> None:
    with pytest.raises(InvalidLaunchParameter, match="launch parameter 'any") as caught:
        LaunchParameters.check(
            {"any": value}, argv=["{any}"], schema=described(properties={"any": {}})
        )
    assert len(str(caught.value)) < 300


def test_values_against_the_schema() -> None:
    with pytest.raises(InvalidLaunchParameter, match=r"'memory' is 99, .*\"maximum\": 9"):
        LaunchParameters.check({"memory": 99}, argv=ARGV, schema=SIZES)


def test_braces_that_the_schema_does_not_mention() -> None:
    open_schema = described(properties={"memory": {}})
    params = {"memory": 1, "unit": "GB"}
    assert LaunchParameters.check(params, argv=ARGV, schema=open_schema).values["unit"] == "GB"
    closed_schema = described(properties={"memory": {}}, additionalProperties=False)
    with pytest.raises(InvalidLaunchParameter, match="'unit' has no effect"):
        LaunchParameters.check(params, argv=ARGV, schema=closed_schema)


def test_unknown_parameters_where_the_schema_lets_them_through() -> None:
    schema = described(additionalProperties={"type": "string"})
    assert LaunchParameters.check({"x": "y"}, argv=["a"], schema=schema).values == {"x": "y"}
    with pytest.raises(InvalidLaunchParameter, match=r"'x' is 1, .*\"string\""):
        LaunchParameters.check({"x": 1}, argv=["a"], schema=schema)


def test_declared_without_a_default_and_not_given() -> None:
    schema = described(properties={"memory": {}, "level": {}, "unused": {}})
    with pytest.raises(InvalidLaunchParameter, match="'memory' is missing"):
        LaunchParameters.check({"level": 1}, argv=ARGV, env={"L": "{level}"}, schema=schema)
    with pytest.raises(InvalidLaunchParameter, match="'level' is missing"):
        LaunchParameters.check({"memory": 1}, argv=ARGV, env={"L": "{level}"}, schema=schema)


def test_the_schema_narrows_the_options_but_gives_them_no_default() -> None:
    schema = described(
        properties={
            "env": {"propertyNames": {"enum": ["LEVEL"]}},
            "transport": {"default": "ipc"},
        },
        additionalProperties=False,
    )
    params = {"env": {"LEVEL": "1"}, "extra_arguments": ["-v"]}
    assert LaunchParameters.check(params, argv=["a"], schema=schema) == LaunchParameters(
        env={"LEVEL": "1"}, extra_arguments=("-v",)
    )
    with pytest.raises(InvalidLaunchParameter, match="PATH"):
        LaunchParameters.check({"env": {"PATH": "1"}}, argv=["a"], schema=schema)


@pytest.mark.parametrize("name", ["connection_file", "kernel_id", "prefix", "resource_dir"])
def test_system_names_win_over_the_schema(name) -> None:
    schema = described(properties={name: {"type": "integer", "default": 1}})
    for params in ({}, {name: "text"}):
        parameters = LaunchParameters.check(params, argv=[f"{{{name}}}"], schema=schema)
        assert parameters == LaunchParameters()


def test_braces_in_the_environment_take_parameters_too() -> None:
    params = {"level": "INFO"}
    env = {"LEVEL": "{level}", "HOME": "${level}"}
    assert LaunchParameters.check(params, argv=["a"], env=env).values == params
    with pytest.raises(InvalidLaunchParameter, match="no effect"):
        LaunchParameters.check(params, argv=["a"], env={"HOME": "${level}"})


NAMES = st.sampled_from(["a", "b", "connection_file", "env", "transport", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


@given(st.dictionaries(NAMES, VALUES), st.booleans())
def test_any_parameters_are_taken_or_refused(params: dict[str, object], with_schema: bool) -> None:
    schema = described(properties={"a": {"type": ["string", "array"]}}) if with_schema else None
    try:
        parameters = LaunchParameters.check(params, argv=["{a}", "{b}"], schema=schema)
    except InvalidLaunchParameter:
        return
    assert parameters.values.keys() == params.keys() & {"a", "b"}
    assert not any("\0" in value for value in parameters.values.values())


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


@pytest.mark.parametrize("name", ["python.exe", "Python3.EXE", f"{THIS_VERSION}.exe", "PYTHON"])
def test_python_on_windows(name, monkeypatch) -> None:
    assert with_this_python([name]) == [name]
    monkeypatch.setattr(os, "name", "nt")
    assert with_this_python([name]) == [sys.executable]


@pytest.fixture
def our_variable(monkeypatch) -> None:
    monkeypatch.setenv("OURS", "1")


@pytest.mark.usefixtures("our_variable")
@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("${OURS}+${OURS}", "1+1"),
        ("${UNKNOWN}", "${UNKNOWN}"),
        ("$OURS", "$OURS"),
        ("pa$$word$", "pa$$word$"),
        ("$${OURS}", "${OURS}"),
        ("${OURS", "${OURS"),
        ("{x}", "{x}"),
        ("", ""),
    ],
)
def test_environment_of_the_caller(value, expanded) -> None:
    assert kernel_environment({}, {"A": value}, {"x": "y"})["A"] == expanded


@pytest.mark.usefixtures("our_variable")
@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("${OURS}+$OURS", "1+1"),
        ("${UNKNOWN}", "${UNKNOWN}"),
        ("$$", "$"),
        ("US$", "US$"),
        ("{x}{x}{y}", "${OURS}{x}${OURS}{x}{y}"),  # nothing is looked at twice
        ("${x}", "${x}"),
        ("$${x}", "${x}"),
        ("${CALLERS}", "1+2"),
    ],
)
def test_environment_of_the_kernel_type(value, expanded) -> None:
    env = kernel_environment({"A": value}, {"CALLERS": "${OURS}+2"}, {"x": "${OURS}{x}"})
    assert (env["A"], env["CALLERS"]) == (expanded, "1+2")


@pytest.mark.usefixtures("our_variable")
def test_order_of_environments() -> None:
    kernel_types = {"OURS": "2:${OURS}", "CALLERS": "2"}
    env = kernel_environment(kernel_types, {"CALLERS": "3"})
    assert env == {**os.environ, "OURS": "2:1", "CALLERS": "3"}


@given(st.text(alphabet="${}AB "))
def test_environment_is_looked_at_once(value: str) -> None:
    env = kernel_environment({"KERNEL_TYPES": value}, {"CALLERS": value}, {"A": value, "B": value})
    if "$" not in value:
        assert env["CALLERS"] == value
    if not {"$", "{"} & set(value):
        assert env["KERNEL_TYPES"] == value


def test_process_options() -> None:
    params = {"limits": {"memory": 5}, "detached": True, "output": print}
    checked = LaunchParameters.check(params, argv=["x"])
    assert checked.limits == Limits(memory=5)
    assert checked.detached
    assert checked.output is print


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"limits": {"memory": 0}}, r"'limits' must be a mapping.*memory"),
        ({"limits": {"disk": 1}}, r"'limits' must be a mapping.*disk"),
        ({"detached": "yes"}, r"'detached' must be true or false"),
    ],
)
def test_invalid_process_options(params, words) -> None:
    with pytest.raises(InvalidLaunchParameter, match=words):
        LaunchParameters.check(params, argv=["x"])


@given(st.text(st.sampled_from("$${}aA")))
def test_literal_value_stands_for_itself(value: str) -> None:
    assert kernel_environment({}, {"A": literal(value)})["A"] == value
