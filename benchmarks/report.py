"""The results as JSON and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

from benchmarks.question import Answer, Question, Verdict

BASELINE = "jupyter_client async"
_BASELINES = (BASELINE, "jupyter_client")

# Contenders that show a lower bound, or parts of the measurement: no reader can use them instead.
_NOT_PEERS = ("kernelproto", "pyzmq loop", "anyio, msgspec, zmq", "sent by", "received by")

# The charts at the top, which docs/hooks/charts.py draws.
_CHARTS = ("start", "flood", "lost")

_NOTES, _END = "<!-- notes -->", "<!-- end of notes -->"


def as_json(answers: Sequence[Answer], machine: Mapping[str, object], scale: str) -> Any:
    """Return all measurements as JSON values; never is null."""
    return {
        "scale": scale,
        "machine": machine,
        "questions": [
            {
                "name": answer.question.name,
                "title": answer.question.title,
                "unit": answer.question.unit,
                "better": answer.question.better,
                "samples": {
                    name: [sample if math.isfinite(sample) else None for sample in samples]
                    for name, samples in answer.samples.items()
                },
                "skipped": answer.skipped,
                "mishaps": answer.mishaps,
                "failed": answer.failed,
                "goals": [
                    {
                        "goal": describe(answer, verdict),
                        "measured": verdict.measured,
                        "met": verdict.met,
                    }
                    for verdict in answer.verdicts()
                ],
            }
            for answer in answers
        ],
    }


def answers_in(results: Mapping[str, Any], questions: Iterable[Question]) -> list[Answer]:
    """Return the answers that ``as_json`` has written.

    Args:
        results: the JSON values.
        questions: have the goals and curves; one that is missing there has none.
    """
    known = {question.name: question for question in questions}
    answers: list[Answer] = []
    for row in results["questions"]:
        given = known.get(row["name"])
        question = Question(
            name=row["name"],
            title=row["title"],
            unit=row["unit"],
            contenders=(),
            better=row["better"],
            goals=given.goals if given else (),
            curve=given.curve if given else None,
        )
        samples = {
            name: [math.inf if sample is None else sample for sample in samples]
            for name, samples in row["samples"].items()
        }
        answers.append(Answer(question, samples, row["skipped"], row["mishaps"], row["failed"]))
    return answers


def as_markdown(
    answers: Sequence[Answer],
    machine: Mapping[str, object],
    scale: str,
    *,
    notes: str = "",
    plots: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the page: charts, results where kernelproto is slower, a table per question, goals.

    Args:
        answers: the answers, questions of one module next to each other.
        machine: the versions and the hardware.
        scale: the scale of the measurement.
        notes: remarks about this run, in Markdown; see ``notes_of``.
        plots: the file of the plot of each module of questions.
    """
    return "\n".join(_lines(answers, machine, scale, notes, plots)) + "\n"


def notes_of(page: str) -> str:
    """Return the remarks between the markers of a page; "" if there are none."""
    return page.partition(_NOTES)[2].partition(_END)[0].strip() if _END in page else ""


def _lines(
    answers: Sequence[Answer],
    machine: Mapping[str, object],
    scale: str,
    notes: str,
    plots: Mapping[str, str],
) -> Iterator[str]:
    yield "# Benchmarks\n"
    if scale != "full":
        yield f"Measured at the scale *{scale}*: too little to draw conclusions from.\n"
    for chart in _CHARTS:
        yield f"<!-- chart: {chart} -->\n"
    yield (
        "The bars are medians of one run on one machine, on asyncio. [All results](#results) have "
        "minimum and maximum too. `benchmarks/README.md` explains how to read and reproduce them.\n"
    )
    yield "## Where kernelproto is slower\n"
    yield from _slower(answers)
    yield f"{_NOTES}\n\n{notes}\n\n{_END}\n" if notes else f"{_NOTES}\n{_END}\n"
    yield "## Results\n"
    for kind, group in groupby(answers, lambda answer: answer.question.name.partition(".")[0]):
        for answer in group:
            yield from _table(answer)
        if kind in plots:
            yield f"![{kind}]({plots[kind]})\n"
    yield "## Goals\n"
    yield "| question | goal | measured | |"
    yield "|---|---|---:|---|"
    for answer in answers:
        for verdict in answer.verdicts():
            yield (
                f"| {answer.question.title} | {describe(answer, verdict)} | "
                f"{number(verdict.measured)} | {'met' if verdict.met else '**missed**'} |"
            )
    yield ""
    yield "## The machine\n"
    yield ", ".join(f"{name} {value}" for name, value in machine.items() if value)


def _slower(answers: Sequence[Answer]) -> Iterator[str]:
    """Yield a table of the results of kernelproto that are worse than those of another library."""
    rows: list[str] = []
    for answer in answers:
        medians = answer.medians()
        for other in medians:
            if other.startswith(_NOT_PEERS):
                continue
            ours = ", ".join(
                f"{name.removeprefix('kernelproto').strip(' ,') or 'kernelproto'} "
                f"{number(medians[name])}"
                for name, _ in answer.slower(other)
            )
            if ours:
                title, unit = answer.question.title, answer.question.unit
                rows.append(f"| {title} ({unit}) | {other} {number(medians[other])} | {ours} |")
    if rows:
        yield "| question | another library | kernelproto |"
        yield "|---|---|---|"
    yield from rows or ["In no question of this run."]
    yield ""


def _table(answer: Answer) -> Iterator[str]:
    question, medians = answer.question, answer.medians()
    baseline = next((name for name in _BASELINES if name in medians), None)
    yield f"### {question.title}\n"
    yield f"{question.unit}; {question.better} is better\n"
    yield f"| | median | min | max | {f'of {baseline}' if baseline else ''} |"
    yield "|---|---:|---:|---:|---:|"
    for name, median in medians.items():
        samples = answer.samples[name]
        ratio = number(median / medians[baseline]) if baseline and medians[baseline] else ""
        yield (
            f"| {name} | {number(median)} | {number(min(samples))} | {number(max(samples))} "
            f"| {ratio} |"
        )
    yield ""
    for name, reason in answer.absences.items():
        yield f"Without {name}: {reason}.\n"
    for name in answer.mishaps.keys() - answer.failed.keys():
        yield f"{name} failed once: {answer.mishaps[name]}.\n"


def describe(answer: Answer, verdict: Verdict) -> str:
    """Return a goal in words."""
    goal = verdict.goal
    bound = "at most" if answer.question.better == "less" else "at least"
    unit = f"of {goal.baseline}" if goal.baseline else answer.question.unit
    above = f", above {goal.floor}" if goal.floor else ""
    return f"{goal.subject}: {bound} {number(goal.limit)} {unit}{above}"


def number(value: float) -> str:
    """Return a number with three significant digits, or "never"."""
    if not math.isfinite(value):
        return "never"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def summary(answer: Answer) -> str:
    """Return an answer in one line."""
    medians = ", ".join(f"{name} {number(median)}" for name, median in answer.medians().items())
    return f"{answer.question.name} [{answer.question.unit}]: {medians}"
