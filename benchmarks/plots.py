"""Plots of the results, with colours that are visible on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.question import Answer

OURS = "#2f8fd8"
_FLOOR = "#8a8f98"
INK = "#808890"
_OTHERS = ("#e0803a", "#c9a227", "#a46fc4", "#55a868")


def draw(answers: Sequence[Answer], folder: Path) -> Iterator[Path]:
    """Draw one plot per module of questions; return the files."""
    for kind, group in groupby(answers, lambda answer: answer.question.name.partition(".")[0]):
        same = [answer for answer in group if answer.medians()]
        if not same:
            continue
        figure = _curves(same) if same[0].question.curve else _bars(same)
        file = folder / f"{kind}.png"
        figure.savefig(file, dpi=120, transparent=True, bbox_inches="tight")
        yield file


def _bars(answers: Sequence[Answer]) -> Figure:
    rows = max(len(answer.medians()) for answer in answers)
    figure = Figure(figsize=(8, len(answers) * (0.9 + 0.32 * rows)), layout="constrained")
    for axes, answer in zip(
        figure.subplots(len(answers), squeeze=False).flat, answers, strict=True
    ):
        finite = {name: m for name, m in answer.medians().items() if math.isfinite(m)}
        names = list(finite)
        lowest = [finite[name] - min(answer.samples[name]) for name in names]
        highest = [max(answer.samples[name]) - finite[name] for name in names]
        axes.barh(
            names,
            list(finite.values()),
            xerr=(lowest, highest),
            color=[_colour(name, names) for name in names],
            ecolor=INK,
            height=0.7,
        )
        axes.invert_yaxis()
        axes.set_xlabel(f"{answer.question.unit}, {answer.question.better} is better")
        axes.set_title(answer.question.title, loc="left", fontsize=10, color=INK)
        tint(axes)
    return figure


def _curves(answers: Sequence[Answer]) -> Figure:
    """Draw a plot for each label of the x axis."""
    groups = [list(group) for _, group in groupby(answers, _label)]
    figure = Figure(figsize=(8, 4.5 * len(groups)), layout="constrained")
    for axes, group in zip(figure.subplots(len(groups), squeeze=False).flat, groups, strict=True):
        _curve(axes, group)
    return figure


def _label(answer: Answer) -> str:
    return answer.question.curve[1] if answer.question.curve else ""


def _curve(axes: Any, answers: Sequence[Answer]) -> None:
    names = list(answers[0].medians())
    for name in names:
        points = [
            (answer.question.curve[0], answer.medians()[name])
            for answer in answers
            if answer.question.curve and name in answer.medians()
        ]
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            color=_colour(name, names),
            linestyle="--" if name.endswith("trio") else "-",
            label=name,
        )
    question = answers[0].question
    axes.set_xlabel(_label(answers[0]))
    axes.set_ylabel(f"{question.unit}, {question.better} is better")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=INK)
    tint(axes)


def _colour(name: str, names: Sequence[str]) -> str:
    if name.startswith("kernelproto"):
        return OURS
    if name.startswith("pyzmq"):
        return _FLOOR
    others = [other for other in names if not other.startswith(("kernelproto", "pyzmq"))]
    return _OTHERS[others.index(name) % len(_OTHERS)]


def tint(axes: Any) -> None:
    """Draw the text and the lines of a plot in a colour that suits light and dark pages."""
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
