"""The results as JSON and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.question import Answer, Verdict

BASELINE = "jupyter_client async"
_BASELINES = (BASELINE, "jupyter_client")


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


def as_markdown(answers: Sequence[Answer], machine: Mapping[str, object], scale: str) -> str:
    """Return the goals, the contenders slower than jupyter_client, and a table per question."""
    return "\n".join(_lines(answers, machine, scale)) + "\n"


def _lines(answers: Sequence[Answer], machine: Mapping[str, object], scale: str) -> Iterator[str]:
    yield "# Benchmarks\n"
    if scale != "full":
        yield f"Measured at the scale *{scale}*: too little to draw conclusions from.\n"
    yield ", ".join(f"{name} {value}" for name, value in machine.items() if value) + "\n"
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
    slower = [
        f"- {answer.question.title}: {name} takes {number(ratio)} of {baseline}"
        if answer.question.better == "less"
        else f"- {answer.question.title}: {name} gets through {number(ratio)} of {baseline}"
        for answer in answers
        for baseline in _BASELINES
        for name, ratio in answer.slower(baseline)
    ]
    yield "## Behind jupyter_client\n"
    yield from slower or ["Nowhere."]
    yield ""
    for answer in answers:
        yield from _table(answer)


def _table(answer: Answer) -> Iterator[str]:
    question, medians = answer.question, answer.medians()
    baseline = next((name for name in _BASELINES if name in medians), None)
    yield f"## {question.title}\n"
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
