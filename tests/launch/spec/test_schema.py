from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelproto.exceptions import InvalidKernelSpec, InvalidLaunchParameter
from kernelproto.launch.spec.schema import ParameterSchema

PATH = "/kernels/some/kernel.json"
KEY = "metadata.parameters"

TAIL = {
    "title": "What the kernel takes",
    "properties": {
        "lines": {"type": "integer", "minimum": 1, "default": 20, "description": "How many"},
        "follow": {"type": "string", "enum": ["-f", "-F"]},
    },
    "required": ["follow"],
}


def schema_of(schema: object) -> ParameterSchema:
    return ParameterSchema(schema, path=PATH, key=KEY)


def test_defaults_are_added_to_given_values() -> None:
    given = {"follow": "-f"}
    assert schema_of(TAIL).complete(given) == {"follow": "-f", "lines": 20}
    assert given == {"follow": "-f"}
    assert schema_of(TAIL).complete({"follow": "-F", "lines": 3}) == {"follow": "-F", "lines": 3}


@pytest.mark.parametrize(
    ("schema", "given", "completed"),
    [
        # In existing objects only: a new object might lack required properties.
        (
            {"properties": {"size": {"properties": {"cpus": {"default": 4}}}}},
            {"size": {"gpus": 1}},
            {"size": {"gpus": 1, "cpus": 4}},
        ),
        ({"properties": {"size": {"properties": {"cpus": {"default": 4}}}}}, {}, {}),
        (
            {"properties": {"size": {"default": {}, "properties": {"cpus": {"default": 4}}}}},
            {},
            {"size": {"cpus": 4}},
        ),
        (
            {"properties": {"disks": {"items": {"properties": {"gb": {"default": 1}}}}}},
            {"disks": [{}, {"gb": 2}]},
            {"disks": [{"gb": 1}, {"gb": 2}]},
        ),
        (
            {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"default": None}}},
            {},
            {"a": None},
        ),
        ({"allOf": [{"properties": {"a": {"default": [1]}}}, True]}, {}, {"a": [1]}),
        ({"anyOf": [{"properties": {"a": {"default": 1}}}, False]}, {}, {}),
        ({"properties": {"a": {"properties": {"b": {"default": 1}}}}}, {"a": 5}, {"a": 5}),
        ({"properties": {"a": True}}, {"a": 5}, {"a": 5}),
        ({"$schema": "urn:of-nobody", "properties": {"a": {"default": 1}}}, {}, {"a": 1}),
    ],
)
def test_defaults(schema: object, given: dict[str, Any], completed: dict[str, Any]) -> None:
    assert schema_of(schema).complete(given) == completed


def test_a_default_belongs_to_one_launch_only() -> None:
    schema = schema_of({"properties": {"a": {"default": []}}})
    schema.complete({})["a"].append(1)
    assert schema.complete({}) == {"a": []}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"follow": "-x"},
            """launch parameter 'follow' is "-x", which breaks 'enum': ["-f", "-F"]; """
            """allowed is {"type": "string", "enum": ["-f", "-F"]}""",
        ),
        (
            {"follow": "-f", "lines": 0},
            "launch parameter 'lines' is 0, which breaks 'minimum': 1; "
            'allowed is {"type": "integer", "minimum": 1}',
        ),
        (
            {},
            "launch parameter 'follow' is missing; "
            'allowed is {"type": "string", "enum": ["-f", "-F"]}',
        ),
    ],
)
def test_errors_name_parameter_value_and_allowed_values(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidLaunchParameter) as caught:
        schema_of(TAIL).complete(given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("schema", "given", "fragment"),
    [
        ({"properties": {"a": {"items": {"type": "null"}}}}, {"a": [None, 1]}, "'a.1' is 1, "),
        ({"properties": {"a": {"required": ["b"]}}}, {"a": {}}, "'a.b' is missing; allowed is any"),
        ({"properties": {"a": True}, "required": ["a"]}, {}, "missing; allowed is anything"),
        ({"properties": {"a": {"not": {}}}}, {"a": 1}, "'a' is 1, which breaks 'not'"),
        ({"properties": {"a": False}}, {"a": 1}, "False schema does not allow 1"),
        ({"minProperties": 2}, {"a": 1}, "the launch parameters are {"),
        ({"properties": {"a": {"additionalProperties": False}}}, {"a": {"b": "key"}}, "'b' was"),
        ({"properties": {"a": {"maxLength": 9}}}, {"a": "x" * 999}, "xxx..."),
    ],
)
def test_other_errors(schema: object, given: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InvalidLaunchParameter) as caught:
        schema_of(schema).complete(given)
    assert fragment in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("mark", [{"format": "password"}, {"writeOnly": True}])
def test_secrets_are_not_quoted(mark: dict[str, object]) -> None:
    schema = schema_of({"properties": {"a": {"minLength": 9, **mark}}, "maxProperties": 1})
    for values in ({"a": "open"}, {"a": "open sesame", "b": 1}):
        with pytest.raises(InvalidLaunchParameter, match="a secret") as caught:
            schema.complete(values)
        assert "open" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "fragment"),
    [
        ([], "is an object"),
        (True, "is an object"),
        ({"$schema": 5}, "must be a string"),
        ({"type": "nonsense"}, "['type']"),
        ({"properties": {"a": {"type": "strnig"}}}, "['properties']['a']['type']"),
        ({"properties": {"a": {"pattern": "("}}}, "['pattern']"),
        ({"$ref": "#"}, "without end"),
        ({"$ref": "#/$defs/nothing"}, "'/$defs/nothing' does not exist"),
        ({"$ref": "http://localhost/schema.json"}, "Unresolvable: http://localhost/schema.json"),
        ({"$ref": "#/unchecked", "unchecked": {"properties": 5}}, "AttributeError"),
        (
            {
                "$schema": "http://json-schema.org/draft-04/schema#",
                "patternProperties": {"(": {}},
            },
            "unterminated subpattern",
        ),
    ],
)
def test_schemas_that_are_none(schema: object, fragment: str) -> None:
    with pytest.raises(InvalidKernelSpec) as caught:
        schema_of(schema)
    assert fragment in str(caught.value)
    assert str(caught.value).startswith(f"{PATH}: '{KEY}': ")
    assert (caught.value.path, caught.value.key) == (PATH, KEY)


@pytest.mark.parametrize(
    ("schema", "fragment"),
    [
        ({"properties": {"a": {"default": 5, "maximum": 3}}}, "a default is not allowed"),
        ({"properties": {"a": {"default": {"b": 5}, "maxProperties": 0}}}, "a default is not all"),
        ({"properties": {"a": {"default": {}, "$ref": "#"}}}, "without end"),
        ({"properties": {"a": {"$ref": "http://localhost/a.json"}}}, "http://localhost/a.json"),
        ({"$ref": "#/unchecked", "unchecked": {"required": 5}}, "TypeError"),
    ],
)
def test_schemas_that_prove_unusable(schema: object, fragment: str) -> None:
    usable_so_far = schema_of(schema)
    with pytest.raises(InvalidKernelSpec) as caught:
        usable_so_far.complete({})
    assert fragment in str(caught.value)
    assert caught.value.key == KEY


@pytest.mark.parametrize(
    ("schema", "accepted"),
    [
        ({"properties": {"a": {}}}, {"a"}),
        ({"properties": {"a": {}}, "additionalProperties": True}, {"a", "b", "x1"}),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "null"}}, {"a", "b", "x1"}),
        ({"properties": {"a": {}}, "unevaluatedProperties": {}}, {"a", "b", "x1"}),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"a"}),
        ({"patternProperties": {"^x[0-9]$": {}}, "additionalProperties": False}, {"x1"}),
        ({"oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, {"a", "b"}),
        ({"$ref": "#/$defs/all", "$defs": {"all": {"properties": {"b": {}}}}}, {"b"}),
        ({"properties": {"a": False, "b": True}}, {"b"}),
        ({}, set()),
    ],
)
def test_which_parameters_it_knows(schema: object, accepted: set[str]) -> None:
    assert {name for name in ("a", "b", "x1") if schema_of(schema).accepts(name)} == accepted


VOCABULARY = """
    a b ( # #/$defs/a #/const properties patternProperties additionalProperties required items type
    default allOf anyOf oneOf not if then enum const minimum $defs $ref $id $anchor $dynamicRef
    $schema object string http://json-schema.org/draft-07/schema#
"""
WORDS = st.sampled_from(VOCABULARY.split())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=300)
@given(schema=JSON, given=st.dictionaries(WORDS, JSON, max_size=3))
def test_nothing_but_the_two_errors(schema: object, given: dict[str, Any]) -> None:
    try:
        parameters = schema_of(schema)
        known = {name: value for name, value in given.items() if parameters.accepts(name)}
        completed = parameters.complete(known)
    except (InvalidKernelSpec, InvalidLaunchParameter):
        return
    assert completed.keys() >= known.keys()
    assert parameters.complete(completed) == completed
