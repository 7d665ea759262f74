"""Parameters become code, in the language of the notebook, in a cell of their own."""

from __future__ import annotations

import pytest

from kernelproto import InvalidParameter
from kernelproto.notebook import inject_parameters
from kernelproto.notebook.parameters import check_names, parameters_source


@pytest.mark.parametrize("language", ["cobol", ""])
def test_language_without_parameters(language: str) -> None:
    languages = "C#, F#, JavaScript, Julia, MATLAB, PowerShell, Python, R, Scala, bash"
    with pytest.raises(InvalidParameter, match=f"in '{language}'; only in {languages}"):
        parameters_source({"a": 1}, language)


def test_errors_name_the_parameter() -> None:
    with pytest.raises(InvalidParameter, match="parameter 'a' in python: values of type bytes"):
        parameters_source({"a": b"bytes"}, "python")


def test_value_that_contains_itself() -> None:
    value: list[object] = []
    value += [value, value]
    with pytest.raises(InvalidParameter, match="more than 100 levels"):
        parameters_source({"a": value}, "python")


def test_value_that_grows_by_references() -> None:
    value: list[object] = []
    for _ in range(20):
        value = [value] * 10
    with pytest.raises(InvalidParameter, match="or 100000 items"):
        parameters_source({"a": value}, "python")


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
