"""Questions, goals and reports, with contenders that need no kernel."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.exceptions import Skipped
from benchmarks.lab import Lab, Sizes, open_lab
from benchmarks.question import Answer, Contender, Goal, Question
from benchmarks.report import answers_in, as_json, as_markdown, notes_of


def question(
    *contenders: Contender, goals: tuple[Goal, ...] = (), better: str = "less", rounds: int = 3
) -> Question:
    return Question(
        name="some.question",
        title="Some question",
        unit="ms",
        contenders=contenders,
        goals=goals,
        better=better,
        rounds=Sizes(rounds, 1, 1),
    )


def constant(name: str, value: float) -> Contender:
    return Contender(name, lambda lab: value)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab("full") as lab:
        yield lab


def ask(question: Question, lab: Lab) -> Answer:
    return question.ask(lab, lambda text: None)


def test_contenders_take_turns(lab: Lab) -> None:
    turns: list[str] = []

    def turn(name: str) -> Callable[[Lab], float]:
        return lambda lab: turns.append(name) or 1.0

    ask(question(Contender("a", turn("a")), Contender("b", turn("b")), rounds=2), lab)

    assert turns == ["a", "b", "a", "b"]


def test_skipped_contender_is_named_and_not_sampled_again(lab: Lab) -> None:
    asked = 0

    def skip(lab: Lab) -> float:
        nonlocal asked
        asked += 1
        raise Skipped("not installed")

    answer = ask(question(Contender("a", skip), constant("b", 1.0)), lab)

    assert asked == 1
    assert answer.skipped == {"a": "not installed"}
    assert answer.medians() == {"b": 1.0}


def failing(rounds: set[int]) -> Contender:
    turns = iter(range(9))

    def sample(lab: Lab) -> float:
        if (turn := next(turns)) in rounds:
            raise OSError("no luck")
        return float(turn)

    return Contender("a", sample)


def test_contender_that_fails_once_continues(lab: Lab) -> None:
    answer = ask(question(failing({1})), lab)

    assert answer.samples == {"a": [0.0, 2.0]}
    assert answer.failed == {}
    assert "a failed once: OSError: no luck." in as_markdown([answer], {}, "full")


@pytest.mark.parametrize("rounds", [{0, 1}, {1, 2}])
def test_contender_that_fails_twice_is_not_measured(rounds: set[int], lab: Lab) -> None:
    answer = ask(question(failing(rounds), constant("b", 1.0)), lab)

    assert answer.failed == {"a": "OSError: no luck"}
    assert answer.medians() == {"b": 1.0}


def test_contender_without_samples_has_failed(lab: Lab) -> None:
    assert ask(question(failing({0}), rounds=1), lab).failed == {"a": "OSError: no luck"}


@pytest.mark.parametrize(
    ("goal", "measured", "met"),
    [
        (Goal(subject="a", limit=2.0), 2.0, True),
        (Goal(subject="a", limit=1.9), 2.0, False),
        (Goal(subject="a", baseline="b", limit=0.5), 0.4, True),
        (Goal(subject="a", baseline="b", floor="c", limit=0.2), 0.25, False),
    ],
)
def test_goals_where_less_is_better(goal: Goal, measured: float, met: bool, lab: Lab) -> None:
    contenders = (constant("a", 2.0), constant("b", 5.0), constant("c", 1.0))
    (verdict,) = ask(question(*contenders, goals=(goal,)), lab).verdicts()

    assert verdict.measured == pytest.approx(measured)
    assert verdict.met == met


def test_goals_where_more_is_better(lab: Lab) -> None:
    goals = (Goal(subject="a", baseline="b", limit=2.0), Goal(subject="a", baseline="b", limit=4.0))
    asked = question(constant("a", 6.0), constant("b", 2.0), goals=goals, better="more")

    assert [verdict.met for verdict in ask(asked, lab).verdicts()] == [True, False]


def test_goal_of_absent_contender_is_not_judged(lab: Lab) -> None:
    goals = (Goal(subject="a", baseline="absent", limit=1.0),)

    assert list(ask(question(constant("a", 1.0), goals=goals), lab).verdicts()) == []


def test_report_names_missed_goals_slower_never_and_absent(lab: Lab) -> None:
    def skip(lab: Lab) -> float:
        raise Skipped("not installed")

    asked = question(
        constant("kernelproto asyncio", 1234.5),
        constant("jupyter_client async", 617.25),
        constant("other", math.inf),
        Contender("absent", skip),
        goals=(Goal(subject="kernelproto asyncio", baseline="jupyter_client async", limit=0.5),),
    )
    markdown = as_markdown([ask(asked, lab)], {"cores": 2}, "full")

    assert (
        "| kernelproto asyncio: at most 0.5 of jupyter_client async | 2 | **missed** |" in markdown
    )
    assert "| Some question (ms) | jupyter_client async 617 | asyncio 1,234 |" in markdown
    assert "| kernelproto asyncio | 1,234 | 1,234 | 1,234 | 2 |" in markdown
    assert "| other | never |" in markdown
    assert "Without absent: not installed." in markdown


def test_results_are_json(lab: Lab) -> None:
    answer = ask(question(constant("a", math.inf), constant("b", 1.0)), lab)
    written = json.loads(json.dumps(as_json([answer], {}, "full"), allow_nan=False))

    assert written["questions"][0]["samples"] == {"a": [None] * 3, "b": [1.0] * 3}


def test_page_begins_with_charts_and_slower_results_and_ends_with_goals(lab: Lab) -> None:
    asked = question(
        constant("kernelproto asyncio", 1.0),
        constant("other", 0.5),
        constant("pyzmq loop", 0.1),
        goals=(Goal(subject="kernelproto asyncio", limit=1.0),),
    )
    page = as_markdown(
        [ask(asked, lab)], {"cores": 2}, "full", notes="A remark.", plots={"some": "some.png"}
    )
    order = [
        "<!-- chart: start -->",
        "<!-- chart: lost -->",
        "## Where kernelproto is slower",
        "| Some question (ms) | other 0.5 | asyncio 1 |",
        "A remark.",
        "### Some question",
        "![some](some.png)",
        "## Goals",
        "cores 2",
    ]

    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)
    assert "| pyzmq loop 0.1 |" not in page
    assert notes_of(page) == "A remark."


def test_page_without_slower_results_and_remarks(lab: Lab) -> None:
    page = as_markdown([ask(question(constant("kernelproto", 1.0)), lab)], {}, "full")

    assert "In no question of this run." in page
    assert notes_of(page) == notes_of("") == ""


def test_answers_are_read_back(lab: Lab) -> None:
    goals = (Goal(subject="a", limit=1.0),)
    asked = question(constant("a", 1.0), constant("never", math.inf), goals=goals)
    answers = [ask(asked, lab)]
    written = json.loads(json.dumps(as_json(answers, {}, "full")))
    (same,) = answers_in(written, [asked])
    (unknown,) = answers_in(written, [])

    assert as_markdown([same], {}, "full") == as_markdown(answers, {}, "full")
    assert list(unknown.verdicts()) == []


def test_plots_are_drawn(lab: Lab, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the dependency group `bench` is not installed")
    from benchmarks.plots import draw

    answers = [ask(question(constant("a", 1.0), constant("never", math.inf)), lab)]
    for label in ("users", "kernels"):
        for number in (1, 4):
            asked = replace(question(constant("a", number)), curve=(number, label))
            answers.append(ask(replace(asked, name=f"curves.{label}_{number}"), lab))

    assert [file.name for file in draw(answers, tmp_path)] == ["some.png", "curves.png"]
    assert (tmp_path / "some.png").stat().st_size > 0
    assert (tmp_path / "curves.png").stat().st_size > 0


@pytest.mark.usefixtures("no_leaks")
def test_lab_leaves_nothing_behind() -> None:
    with open_lab("tiny") as lab:
        assert lab.synthetic.exists()
        folder = lab.folder

    assert not folder.exists()
