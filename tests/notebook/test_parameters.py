"""Parameters become code, in the language of the notebook, in a cell of their own."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto import InvalidParameter
from kernelproto.notebook import inject_parameters
from kernelproto.notebook.parameters import check_names, parameters_source

VALUES = {
    "n": None,
    "b": True,
    "i": -3,
    "f": 1.5,
    "s": 'a "quoted" \\ line\n$HOME ż',
    "l": [1, (False,)],
    "d": {"a b": {"c": []}},
    "x": math.inf,
    "y": -math.inf,
    "z": math.nan,
}

SOURCES = {
    "python": """\
# Parameters
n = None
b = True
i = -3
f = 1.5
s = 'a "quoted" \\\\ line\\n$HOME ż'
l = [1, [False]]
d = {'a b': {'c': []}}
x = float('inf')
y = -float('inf')
z = float('nan')""",
    "R": """\
# Parameters
n <- NULL
b <- TRUE
i <- -3
f <- 1.5
s <- "a \\"quoted\\" \\\\ line\\n$HOME ż"
l <- list(1, list(FALSE))
d <- list("a b" = list("c" = list()))
x <- Inf
y <- -Inf
z <- NaN""",
    "julia": """\
# Parameters
n = nothing
b = true
i = -3
f = 1.5
s = "a \\"quoted\\" \\\\ line\\n\\$HOME ż"
l = [1, [false]]
d = Dict("a b" => Dict("c" => []))
x = Inf
y = -Inf
z = NaN""",
    "typescript": """\
// Parameters
var n = null;
var b = true;
var i = -3;
var f = 1.5;
var s = "a \\"quoted\\" \\\\ line\\n$HOME ż";
var l = [1, [false]];
var d = {"a b": {"c": []}};
var x = Infinity;
var y = -Infinity;
var z = NaN;""",
}
SOURCES["javascript"] = SOURCES["typescript"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("language", SOURCES)
def test_literals_of_every_language(language) -> None:
    assert parameters_source(VALUES, language) == SOURCES[language]


@given(JSON)
def test_python_evaluates_to_the_value(value) -> None:
    namespace: dict[str, object] = {}
    exec(parameters_source({"value": value}, "python"), namespace)  # it is code, and ours

    assert namespace["value"] == value


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_javascript_writes_json(value) -> None:
    source = parameters_source({"value": value}, "javascript").removeprefix("// Parameters\n")

    assert json.loads(source.removeprefix("var value = ").removesuffix(";")) == value


@pytest.mark.parametrize(
    ("parameters", "language", "reason"),
    [
        ({"a": 1}, "cobol", "in 'cobol'; only in javascript, julia, python, r, typescript"),
        ({"a": 1}, "", "in ''; only in"),
        ({"a b": 1}, "python", "'a b' is not a valid name"),
        ({"a\n": 1}, "python", "is not a valid name"),
        ({"1a": 1}, "python", "is not a valid name"),
        ({"a;b": 1}, "R", "is not a valid name"),
        ({"lambda": 1}, "python", "'lambda' is not a valid name"),
        (
            {"a": b"bytes"},
            "python",
            "parameter 'a' in python: values of type bytes are not supported",
        ),
        ({"a": [object()]}, "julia", "values of type object are not supported"),
        ({"a": {1: 2}}, "python", "must be strings, not 1"),
    ],
)
def test_unsupported_names_and_values_are_refused(parameters, language, reason) -> None:
    with pytest.raises(InvalidParameter, match=reason):
        parameters_source(parameters, language)


@pytest.mark.parametrize("name", ["a", "_a1", "a.b", "lambda", "Ab"])
def test_name_valid_in_some_language(name) -> None:
    check_names([name])


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "a\n", "ż", ".a", "a;b"])
def test_name_valid_in_no_language(name) -> None:
    with pytest.raises(InvalidParameter, match="is not a valid parameter name"):
        check_names(["good", name])


def test_injected_cell_follows_the_defaults(notebook) -> None:
    nb = notebook("first", ("year = 1", "parameters"), "last")

    inject_parameters(nb, {"year": 2}, "python")

    assert [cell.source for cell in nb.cells] == [
        "first",
        "year = 1",
        "# Parameters\nyear = 2",
        "last",
    ]
    assert nb.cells[2].metadata.tags == ["injected-parameters"]


def test_injected_cell_is_first_without_defaults(notebook) -> None:
    nb = notebook("first")
    nb["nbformat_minor"] = 4
    del nb.cells[0]["id"]

    inject_parameters(nb, {"year": 2}, "python")

    assert [cell.source for cell in nb.cells] == ["# Parameters\nyear = 2", "first"]
    assert "id" not in nb.cells[0]


def test_injected_cell_replaces_an_earlier_one(notebook) -> None:
    nb = notebook(("year = 1", "parameters"), "between", ("year = 2", "injected-parameters"))

    inject_parameters(nb, {"year": 3}, "python")

    assert [cell.source for cell in nb.cells] == ["year = 1", "between", "# Parameters\nyear = 3"]
