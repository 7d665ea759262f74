from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from kernelproto.cli.junit import junit_xml
from kernelproto.cli.locations import STANDARD
from kernelproto.cli.notebook import Outcome, Task
from kernelproto.notebook import CellFinished
from kernelproto.wire.content import ErrorOutput


def cell(number: int, **more: Any) -> CellFinished:
    options = {"index": number, "number": number, "total": 4, "status": "ok", "duration": 0.25}
    return CellFinished(**(options | more))


def suites(outcomes: dict[Task, Outcome]) -> ElementTree.Element:
    return ElementTree.fromstring(junit_xml(outcomes))


def task(name: str) -> Task:
    return Task(Path(name), Path("out.ipynb"))


def test_one_case_for_each_cell() -> None:
    error = ErrorOutput(
        "ValueError", "bad", ["\x1b[31mTraceback\x1b[0m", "ValueError: \x00bad <&>"]
    )
    failed = Outcome(
        status="error",
        done=3,
        total=4,
        seconds=1.5,
        problem="cell 3 of 4: ValueError: bad",
        cells=[
            cell(1),
            cell(2, status="error", error=error),  # which is allowed
            cell(3, status="error", error=error, allowed=False),
        ],
    )
    root = suites({task("reports/a.b.ipynb"): failed})

    assert root.attrib == {
        "tests": "4",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
        "time": "1.500",
    }
    (suite,) = root
    assert suite.attrib == root.attrib | {"name": "reports/a.b.ipynb"}
    assert suite[0].attrib == {
        "classname": "reports.a.b",
        "name": "cell 1",
        "time": "0.250",
        "file": "reports/a.b.ipynb",
    }
    assert [[child.tag for child in case] for case in suite] == [[], [], ["failure"], ["skipped"]]
    failure = suite[2][0]
    assert failure.attrib == {"type": "ValueError", "message": "cell 3 of 4: ValueError: bad"}
    assert failure.text == "Traceback\nValueError: bad <&>"
    assert suite[3][0].attrib == {"message": "an earlier cell failed"}


def test_errors_that_no_cell_raises() -> None:
    died = Outcome(status="failed", done=1, total=4, problem="the kernel died", cells=[cell(1)])
    unread = Outcome(status="failed", problem="is not a valid notebook")
    at_end = Outcome(status="failed", done=1, total=1, problem="No space left", cells=[cell(1)])
    (first, second, third) = suites({task("a"): died, task("b"): unread, task("c"): at_end})

    assert [[child.tag for child in case] for case in first] == [
        [],
        ["error"],
        ["skipped"],
        ["skipped"],
    ]
    assert first[1][0].attrib == {"message": "the kernel died"}
    assert [(case.get("name"), case[0].get("message")) for case in second] == [
        ("notebook", "is not a valid notebook")
    ]
    assert [(case.get("name"), len(case)) for case in third] == [("cell 1", 0), ("notebook", 1)]


def test_cell_that_takes_too_long() -> None:
    late = Outcome(
        status="timeout",
        total=1,
        problem="cell 1 of 1 was interrupted",
        cells=[cell(1, status="timeout", allowed=False)],
    )
    (suite,) = suites({Task(STANDARD, STANDARD): late})

    assert suite[0].get("classname") == "standard input"
    assert "file" not in suite[0].attrib
    assert suite[0][0].attrib == {"type": "timeout", "message": "cell 1 of 1 was interrupted"}


def test_cells_that_are_left_out() -> None:
    (suite,) = suites({task("a"): Outcome(status="ok", total=4, cells=[cell(2), cell(3)])})

    assert [[skipped.get("message") for skipped in case] for case in suite] == [
        ["not executed"],
        [],
        [],
        ["not executed"],
    ]


def test_stopped_notebooks() -> None:
    (begun, waiting) = suites(
        {task("a"): Outcome(total=2, cells=[cell(1)]), task("b"): Outcome(status="stopped")}
    )

    for case in (begun[1], waiting[0]):
        assert case[0].attrib == {"message": "the execution was stopped"}


@given(st.text(), st.text(), st.text())
def test_any_text_is_valid_xml(name: str, ename: str, line: str) -> None:
    failed = cell(1, status="error", error=ErrorOutput(ename, "", [line]), allowed=False)
    outcome = Outcome(status="error", total=1, problem=ename, cells=[failed])

    (suite,) = suites({task(name or "x"): outcome})

    assert suite.get("failures") == "1"
