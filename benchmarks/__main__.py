"""Ask the questions and write the answers: python -m benchmarks [NAME ...]."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.lab import open_lab
from benchmarks.machine import facts
from benchmarks.question import Answer, Question
from benchmarks.questions import QUESTIONS
from benchmarks.report import answers_in, as_json, as_markdown, notes_of, summary


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="questions; all by default")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", dest="scale", action="store_const", const="quick")
    scale.add_argument("--tiny", dest="scale", action="store_const", const="tiny")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write results and plots there; questions that are not asked keep their results",
    )
    parser.add_argument(
        "--rewrite",
        type=Path,
        metavar="DIR",
        help="write page and plots anew from its results",
    )
    parser.add_argument("--list", action="store_true", help="list the questions")
    parser.set_defaults(scale="full")
    options = parser.parse_args()
    questions = _chosen(options.names)
    if options.list:
        width = max(len(question.name) for question in questions) + 2
        for question in questions:
            say(f"{question.name:{width}}{question.title}")
        return
    if options.rewrite:
        _rewrite(options.rewrite)
        return
    machine = facts()
    answers = _earlier(options.out, questions) if options.names else {}
    with open_lab(options.scale) as lab:
        for question in questions:
            began = time.monotonic()
            answers[question.name] = question.ask(lab, say)
            say(f"{summary(answers[question.name])}  ({time.monotonic() - began:.0f} s)")
            # After each question, so that an interrupted run loses none.
            _save(_in_order(answers), machine, options)
    ordered = _in_order(answers)
    if options.out:
        page = as_markdown(ordered, machine, options.scale, plots=_draw(ordered, options.out))
        (options.out / "README.md").write_text(page)
    sys.stdout.write(as_markdown(ordered, machine, options.scale))


def _earlier(out: Path | None, asked: Sequence[Question]) -> dict[str, Answer]:
    """Return the answers in a folder of results to the questions that are not asked now."""
    if out is None or not (out / "results.json").exists():
        return {}
    answers = answers_in(json.loads((out / "results.json").read_text()), QUESTIONS)
    names = {question.name for question in asked}
    return {each.question.name: each for each in answers if each.question.name not in names}


def _in_order(answers: Mapping[str, Answer]) -> list[Answer]:
    return [answers[each.name] for each in QUESTIONS if each.name in answers]


def _save(
    answers: Sequence[Answer], machine: Mapping[str, object], options: argparse.Namespace
) -> None:
    text = json.dumps(as_json(answers, machine, options.scale), indent=1) + "\n"
    if options.json:
        options.json.write_text(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(text)


def say(text: str) -> None:
    """Print progress to standard error, apart from the results."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _chosen(names: Sequence[str]) -> Sequence[Question]:
    if not names:
        return QUESTIONS
    chosen = [
        question
        for question in QUESTIONS
        if {question.name, question.name.partition(".")[0]} & set(names)
    ]
    known = {name for q in QUESTIONS for name in (q.name, q.name.partition(".")[0])}
    if unknown := set(names) - known:
        sys.exit(f"no such question: {', '.join(sorted(unknown))}; try --list")
    return chosen


def _rewrite(folder: Path) -> None:
    """Write the page of earlier results; the remarks on it stay."""
    page = folder / "README.md"
    results = json.loads((folder / "results.json").read_text())
    answers = answers_in(results, QUESTIONS)
    page.write_text(
        as_markdown(
            answers,
            results["machine"],
            results["scale"],
            notes=notes_of(page.read_text()),
            plots=_draw(answers, folder),
        )
    )


def _draw(answers: Sequence[Answer], folder: Path) -> dict[str, str]:
    from benchmarks.plots import draw  # matplotlib is optional

    return {file.stem: file.name for file in draw(answers, folder)}


if __name__ == "__main__":
    main()
