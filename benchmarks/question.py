"""Question: the measurement, the contenders and the goals; ask() returns an Answer."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.exceptions import Overdue, Skipped
from benchmarks.lab import Lab, Sizes
from benchmarks.limit import limited

_ROUNDS = Sizes(15, 3, 1)

# The limit for one sample. Most programs have a lower limit of their own, see peers/peer.py; this
# one is for contenders that block the event loop or do not end when they are cancelled.
_SAMPLE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender.

    Args:
        name: shown in the tables.
        sample: does the work once and returns the measurement in the question's unit;
            ``math.inf`` means never.
    """

    name: str
    sample: Callable[[Lab], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A limit for a median, or for a ratio of medians.

    Args:
        subject: the name of a contender.
        limit: upper limit, or lower limit if more is better.
        baseline: the contender to divide by; None uses the median itself.
        floor: a contender to subtract from both first.
    """

    subject: str
    limit: float
    baseline: str | None = None
    floor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question.

    Args:
        name: for the command line; questions of one module share the part before the dot.
        title: shown in the tables.
        unit: unit of the samples.
        contenders: in the order in which they take turns.
        better: whether less or more is better.
        goals: the limits to check.
        rounds: number of turns of each contender.
        curve: for one point of a curve: its x value and the label of the x axis.
    """

    name: str
    title: str
    unit: str
    contenders: Sequence[Contender]
    better: Literal["less", "more"] = "less"
    goals: Sequence[Goal] = ()
    rounds: Sizes = _ROUNDS
    curve: tuple[int, str] | None = None

    def ask(
        self, lab: Lab, say: Callable[[str], None], *, limit: float = _SAMPLE_SECONDS
    ) -> Answer:
        """Let the contenders take turns: A B C, A B C, ...; exclude one that fails twice or hangs.

        A single failure may be the kernel's: ipykernel sometimes misses a request that arrives just
        after its previous reply.

        Args:
            lab: the environment.
            say: prints a line about the progress.
            limit: seconds after which a sample is interrupted.
        """
        answer = Answer(self)
        playing = list(self.contenders)
        for number in range(1, lab.size(self.rounds) + 1):
            for contender in tuple(playing):
                name = contender.name
                gc.collect()
                try:
                    work = f"{self.name}: {name}, round {number}"
                    with limited(work, limit, say, shared=lab.pids):
                        sample = contender.sample(lab)
                except Skipped as reason:
                    answer.skipped[name] = str(reason)
                    playing.remove(contender)
                    say(f"{self.name}: without {name}: {reason}")
                except Exception as error:
                    failure = f"{type(error).__name__}: {error}"
                    say(f"{work} failed: {failure}")
                    if name in answer.mishaps or isinstance(error, Overdue):
                        playing.remove(contender)
                        answer.failed[name] = failure
                    answer.mishaps[name] = failure
                else:
                    answer.samples.setdefault(name, []).append(sample)
        for name in answer.mishaps.keys() - answer.samples.keys():
            answer.failed[name] = answer.mishaps[name]
        return answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, the measurement, and whether it meets the goal."""

    goal: Goal
    measured: float
    met: bool


@dataclass(slots=True)
class Answer:
    """The answer to a question.

    Attributes:
        samples: samples by contender.
        skipped: contenders that could not take part, with the reason.
        mishaps: contenders that failed at least once, with the last failure.
        failed: contenders that were given up, with the reason.
    """

    question: Question
    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    mishaps: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def absences(self) -> Mapping[str, str]:
        """The contenders without a result, with the reason."""
        return self.skipped | self.failed

    def medians(self) -> dict[str, float]:
        """Return the median of each contender that was measured."""
        return {
            name: statistics.median(samples)
            for name, samples in self.samples.items()
            if name not in self.absences
        }

    def verdicts(self) -> Iterator[Verdict]:
        """Iterate over the goals whose contenders were all measured."""
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
        """Iterate over our contenders that are slower than *baseline*, with their ratio to it."""
        medians = self.medians()
        if baseline not in medians:
            return
        for name, median in medians.items():
            if not name.startswith("kernelproto"):
                continue
            less = self.question.better == "less"
            if median > medians[baseline] if less else median < medians[baseline]:
                yield name, median / medians[baseline]
