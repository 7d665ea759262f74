"""Question: what is measured, of whom, and what is hoped for; asking it gives an Answer."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.lab import Lab, Sizes

_ROUNDS = Sizes(15, 3, 1)


class Skipped(Exception):
    """This contender cannot take part here; the message says why."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who is measured.

    Args:
        name: as it stands in the tables.
        sample: does the work once, and returns the measurement in the question's unit;
            ``math.inf`` stands for never.
    """

    name: str
    sample: Callable[[Lab], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """How a contender should compare: a ratio of medians, or a median alone.

    Args:
        subject: the name of a contender.
        limit: what is hoped for: at most, or where more is better at least.
        baseline: the contender that it is divided by; None compares the median itself.
        floor: a contender that is taken away from both first.
    """

    subject: str
    limit: float
    baseline: str | None = None
    floor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Something that is measured.

    Args:
        name: for the command line; questions of one module share what comes before the dot.
        title: for the tables.
        unit: of the samples.
        contenders: in the order in which they take turns.
        better: whether less or more of it is better.
        goals: what is hoped for.
        rounds: how often everybody has a turn.
        curve: where this is one point of a curve: the point's place, and what that counts.
    """

    name: str
    title: str
    unit: str
    contenders: Sequence[Contender]
    better: Literal["less", "more"] = "less"
    goals: Sequence[Goal] = ()
    rounds: Sizes = _ROUNDS
    curve: tuple[int, str] | None = None

    def ask(self, lab: Lab, say: Callable[[str], None]) -> Answer:
        """Let the contenders take turns: A B C, A B C, ...; who fails twice is out.

        Once may be the kernel's fault: now and then ipykernel sleeps over a request that comes just
        when it has replied to the one before.
        """
        answer = Answer(self)
        playing = list(self.contenders)
        for _ in range(lab.size(self.rounds)):
            for contender in tuple(playing):
                name = contender.name
                gc.collect()
                try:
                    sample = contender.sample(lab)
                except Skipped as reason:
                    answer.skipped[name] = str(reason)
                    playing.remove(contender)
                    say(f"{self.name}: without {name}: {reason}")
                except Exception as error:
                    say(f"{self.name}: {name} failed: {type(error).__name__}: {error}")
                    if name in answer.mishaps:
                        playing.remove(contender)
                        answer.failed[name] = f"{type(error).__name__}: {error}"
                    answer.mishaps[name] = f"{type(error).__name__}: {error}"
                else:
                    answer.samples.setdefault(name, []).append(sample)
        for name in answer.mishaps.keys() - answer.samples.keys():
            answer.failed[name] = answer.mishaps[name]
        return answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, what was measured of it, and whether that is good enough."""

    goal: Goal
    measured: float
    met: bool


@dataclass(slots=True)
class Answer:
    """What asking a question has given.

    Attributes:
        samples: by contender.
        skipped: who could not take part, and why.
        mishaps: who failed once or more, and how it did last.
        failed: who was given up for it, and why.
    """

    question: Question
    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    mishaps: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def absences(self) -> Mapping[str, str]:
        """Who is not measured, for whatever reason."""
        return self.skipped | self.failed

    def medians(self) -> dict[str, float]:
        """Return the median of each contender that was measured."""
        return {
            name: statistics.median(samples)
            for name, samples in self.samples.items()
            if name not in self.absences
        }

    def verdicts(self) -> Iterator[Verdict]:
        """Iterate over the goals that can be judged because all they name were measured."""
        medians = self.medians()
        for goal in self.question.goals:
            if not {goal.subject, goal.baseline or goal.subject, goal.floor or goal.subject} <= (
                medians.keys()
            ):
                continue
            floor = medians[goal.floor] if goal.floor else 0.0
            measured = medians[goal.subject] - floor
            if goal.baseline is not None:
                measured /= (medians[goal.baseline] - floor) or float("nan")
            less = self.question.better == "less"
            met = measured <= goal.limit if less else measured >= goal.limit
            yield Verdict(goal, measured, met)

    def slower(self, baseline: str) -> Iterator[tuple[str, float]]:
        """Iterate over our contenders that are behind *baseline*, with their ratio to it."""
        medians = self.medians()
        if baseline not in medians:
            return
        for name, median in medians.items():
            if not name.startswith("kernelproto"):
                continue
            less = self.question.better == "less"
            if median > medians[baseline] if less else median < medians[baseline]:
                yield name, median / medians[baseline]
