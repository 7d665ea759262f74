"""The outcomes of notebooks as JUnit XML, which CI systems display. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from kernelproto.cli.locations import STANDARD, display
from kernelproto.cli.outputs import plain_traceback

if TYPE_CHECKING:
    from kernelproto.cli.notebook import Outcome, Task
    from kernelproto.notebook import CellFinished

# All but the characters of XML 1.0.
_INVALID = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_STOPPED = "the execution was stopped"


def junit_xml(outcomes: Mapping[Task, Outcome]) -> bytes:
    """Return a test suite for each notebook, with a test case for each cell to execute.

    A cell that raises an exception, or takes too long, has failed, unless that is allowed. A cell
    that was not reached is skipped. An error that no cell has caused, such as the death of the
    kernel, is an error of the next cell.
    """
    root = ElementTree.Element("testsuites")
    for task, outcome in outcomes.items():
        root.append(_suite(task, outcome))
    _count(root, sum(outcome.seconds for outcome in outcomes.values()))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=False)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{text}\n".encode()


def _suite(task: Task, outcome: Outcome) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_valid(task.name))
    executed = {cell.number: cell for cell in outcome.cells}
    failed = outcome.status == "failed"
    next_number = max(executed, default=0) + 1
    for number in range(1, outcome.total + 1):
        cell = executed.get(number)
        case = _case(suite, task, f"cell {number}", 0 if cell is None else cell.duration)
        if cell is None and failed and number == next_number:
            ElementTree.SubElement(case, "error", message=_valid(outcome.problem))
        elif cell is None:
            reason = _reason(outcome, reached=number < next_number)
            ElementTree.SubElement(case, "skipped", message=reason)
        elif not cell.allowed:
            _fail(case, cell, outcome.problem)
    if next_number > outcome.total and outcome.status in ("failed", "stopped"):
        case = _case(suite, task, "notebook", 0)
        if failed:
            ElementTree.SubElement(case, "error", message=_valid(outcome.problem))
        else:
            ElementTree.SubElement(case, "skipped", message=_STOPPED)
    _count(suite, outcome.seconds)
    return suite


def _reason(outcome: Outcome, *, reached: bool) -> str:
    """Return why a cell was not executed."""
    if outcome.status == "stopped":
        return _STOPPED
    if outcome.problem and not reached:
        return "an earlier cell failed"
    return "not executed"


def _case(suite: ElementTree.Element, task: Task, name: str, seconds: float) -> ElementTree.Element:
    source = display(task.source)
    attributes = {
        "classname": _valid(source.removesuffix(".ipynb").replace("/", ".").strip(".")),
        "name": name,
        "time": f"{seconds:.3f}",
    }
    if task.source != STANDARD:
        attributes["file"] = _valid(source)
    return ElementTree.SubElement(suite, "testcase", attributes)


def _fail(case: ElementTree.Element, cell: CellFinished, problem: str) -> None:
    failure = ElementTree.SubElement(
        case,
        "failure",
        type=_valid(cell.error.ename if cell.error is not None else cell.status),
        message=_valid(problem),
    )
    if cell.error is not None:
        failure.text = _valid(plain_traceback(cell.error))


def _count(element: ElementTree.Element, seconds: float) -> None:
    names = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for attribute, tag in names.items():
        element.set(attribute, str(sum(1 for _ in element.iter(tag))))
    element.set("time", f"{seconds:.3f}")


def _valid(text: str) -> str:
    """Return text without the characters that XML cannot contain."""
    return _INVALID.sub("", text)
