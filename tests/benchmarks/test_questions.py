"""Every question can be asked at the smallest scale. No test checks any speed."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.question import Question
from benchmarks.questions import QUESTIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Mapping[str, Any]]:
    """Return a function that asks a module's questions once and returns the results."""

    @functools.cache
    def ask(module: str) -> Mapping[str, Any]:
        file = tmp_path_factory.mktemp("benchmarks") / "results.json"
        command = [sys.executable, "-m", "benchmarks", "--tiny", "--json", str(file), module]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        written: Mapping[str, Any] = json.loads(file.read_text())
        return written

    return ask


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_question_is_answered(question: Question, ask: Callable[[str], Mapping[str, Any]]) -> None:
    answers = ask(question.name.partition(".")[0])
    (answer,) = [answer for answer in answers["questions"] if answer["name"] == question.name]

    # A peer may fail, and the answer says how: a plain loop has lost ipykernel's reply before.
    assert [name for name in answer["failed"] if name.startswith("kernelproto")] == []
    assert {contender.name for contender in question.contenders} == (
        answer["samples"].keys() | answer["skipped"].keys() | answer["failed"].keys()
    )
    assert set(answer["skipped"].values()) <= {
        "there is no kernel type 'fork/kernel'",
        "there is no kernel type 'warm/kernel'",
        "there is no /proc/PID/smaps_rollup",
        "PostgreSQL is not installed: run `make cluster`",
        "jupyter_server is not installed",
        "papermill is not installed",
        "there is no sshd: install it with `make cluster`",
        "there is no nss_wrapper, which gives the sshd an ordinary user: install it with "
        "`make cluster`",
        "an ordinary user has no Python of this version that can import ipykernel",
        "psycopg is not installed",
        "uvloop is not installed",
        "xeus-python is not installed",
        "zmq-anyio and fps-kernel-subprocess are not installed",
    }


def test_results_describe_the_machine_without_identifying_it(
    ask: Callable[[str], Mapping[str, Any]],
) -> None:
    answers = ask("codec")
    machine = answers["machine"]

    assert machine["cores"] >= 1
    assert machine["python"]
    assert str(Path.home()) not in json.dumps(answers)


def test_questions_have_different_names() -> None:
    assert len({question.name for question in QUESTIONS}) == len(QUESTIONS)


def test_goals_are_about_contenders() -> None:
    for question in QUESTIONS:
        known = {contender.name for contender in question.contenders} | {None}
        for goal in question.goals:
            assert {goal.subject, goal.baseline, goal.floor} <= known
