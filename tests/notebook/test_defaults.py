"""The parameters of a notebook are read from the code of its tagged cell."""

from __future__ import annotations

import pytest

from kernelproto import InvalidParameter
from kernelproto.notebook import Parameter, inspect_parameters
from kernelproto.notebook.defaults import unknown_parameters

CELL = """\
%load_ext something
import os; 'x' == 'y'
# The year
# of the report.
year: int = 2026
path = "a # b"  # where the data is
region = None  # type: str  # two letters
rates = [
    0.5,  # low
    1,
]  # both rates

a, (b, c) = 1, (2, "x"); d = e = {}
home = os.environ["HOME"]
home += "/x"
if year: late = True
!ls
"""


def test_names_types_defaults_and_comments(notebook) -> None:
    nb = notebook("before = 1", (CELL, "parameters"), ("injected = 1", "injected-parameters"))

    found = {each.name: (each.type, each.default, each.comment) for each in inspect_parameters(nb)}

    assert found == {
        "year": ("int", "2026", "The year of the report."),
        "path": ("str", '"a # b"', "where the data is"),
        "region": ("str", "None", "two letters"),
        "rates": ("list", "[\n    0.5,  # low\n    1,\n]", "both rates"),
        "a": ("int", "1", ""),
        "b": ("int", "2", ""),
        "c": ("str", '"x"', ""),
        "d": ("dict", "{}", ""),
        "e": ("dict", "{}", ""),
        "home": ("", 'os.environ["HOME"]', ""),
    }


def test_code_is_not_executed(notebook, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    nb = notebook(("x = open('executed', 'w')", "parameters"))

    assert inspect_parameters(nb) == [
        Parameter(name="x", type="", default="open('executed', 'w')", comment="")
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cells", "language", "reason"),
    [
        (["x = 1"], "python", 'no cell is tagged "parameters"'),
        ([("x = ", "parameters")], "python", "is not valid Python: invalid syntax"),
        ([("x = (", "parameters")], "python", "is not valid Python: "),
        ([("x = '\0'", "parameters")], "python", "is not valid Python: "),
        ([("x = " + "-" * 100_000 + "1", "parameters")], "python", "is not valid Python: "),
        ([("x <- 1", "parameters")], "R", "only in Python, not in R"),
    ],
)
def test_notebook_without_readable_parameters(notebook, cells, language, reason) -> None:
    nb = notebook(*cells)
    nb.metadata["language_info"] = {"name": language}

    with pytest.raises(InvalidParameter, match=reason):
        inspect_parameters(nb)


def test_known_parameters(notebook) -> None:
    names = ["year", "path", "region", "rates", "a", "b", "c", "d", "e", "home", "late"]

    assert unknown_parameters(notebook((CELL, "parameters")), names) is None
    assert unknown_parameters(notebook("no tag"), []) is None


@pytest.mark.parametrize(
    ("source", "names", "sentence"),
    [
        (
            "year = 1\nregion = 2",
            ["years", "region", "x"],
            'the cell tagged "parameters" does not assign years, x (did you mean year?); it '
            "assigns year, region",
        ),
        ("", ["x"], 'the cell tagged "parameters" does not assign x; it assigns nothing'),
        (
            "\n".join(f"x{number} = 1" for number in range(30)),
            ["y"],
            'the cell tagged "parameters" does not assign y; it assigns '
            + ", ".join(f"x{number}" for number in range(20))
            + " and 10 more",
        ),
    ],
)
def test_unknown_parameters(notebook, source, names, sentence) -> None:
    assert unknown_parameters(notebook((source, "parameters")), names) == sentence


def test_unknown_without_the_tag(notebook) -> None:
    assert unknown_parameters(notebook("x = 1"), ["x"]) == (
        'no cell is tagged "parameters", so the parameters cannot be checked'
    )


@pytest.mark.parametrize(
    "source",
    [
        "alpha.x <- 1; x <- 2",
        "x=1\nexport beta=$x",
        "val x: Int = 1",
        "int x = 1; // comment",
        "$x = 1",
        "let x = 1;;",
        "const x: number = 1;",
    ],
)
def test_assignments_of_other_languages(notebook, source) -> None:
    nb = notebook((source + "\ny == 1; if (a.z = 1) {}", "parameters"))

    assert unknown_parameters(nb, ["x"]) is None
    assert unknown_parameters(nb, ["y"]) is not None
    assert unknown_parameters(nb, ["z"]) is not None
