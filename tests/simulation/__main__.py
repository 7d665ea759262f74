"""The simulation: programs, pools, the registry, replay and clients, with faults at any step.

    python -m tests.simulation --seed 42 --steps 1000000

Each episode is a world of its own: FakeKernels as processes, programs that serve them, and pages
that connect to the programs. Nothing is real but the code under test and the statements of the
registry: Trio's clock is simulated, and the seed decides the order of the tasks, all ids and all
faults. See docs/explanation/delivery.md for the invariants.

It prints a summary. If an invariant is broken, it prints the seed and the step, and then the faults
that are enough to break one, and exits with 1. ``--episode 42/17`` runs this episode alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections import Counter

from tests.simulation import episode, schedule
from tests.simulation.episode import Outcome


def main() -> int:
    """Run the simulation; return the exit status."""
    options = _parse()
    if options.log:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
        logging.getLogger("kernelproto").addHandler(logging.StreamHandler())
    if not schedule.can_order():
        print(
            "this version of Trio does not order its tasks by a seed: a seed replays in part only"
        )
    counts, steps, number = Counter[str](), 0, 0
    began = time.perf_counter()
    outcomes = episode.episodes(options.seed, options.steps)
    for outcome in [episode.run(options.episode)] if options.episode else outcomes:
        number += 1
        counts += outcome.counts
        steps += outcome.steps
        if outcome.violation is not None:
            _report(outcome)
            if options.shorten:
                _report_faults(episode.shorten(outcome))
            return 1
    seconds = time.perf_counter() - began
    print(f"{steps:,} steps in {number} episodes, {seconds:.1f} s; every invariant holds")
    for name, count in sorted(counts.items()):
        print(f"{count:8,}  {name}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--episode", help="run this episode alone, for example 42/17")
    parser.add_argument("--no-shorten", dest="shorten", action="store_false")
    parser.add_argument("--log", action="store_true", help="print the log of the library")
    return parser.parse_args()


def _report(outcome: Outcome) -> None:
    assert outcome.violation is not None
    print(f"episode {outcome.seed} is broken after step {outcome.violation.step}:")
    print(f"  {outcome.violation.text}")
    if outcome.violation.cause is not None:
        traceback.print_exception(outcome.violation.cause, file=sys.stdout)
    print(f"again: python -m tests.simulation --episode {outcome.seed}")


def _report_faults(outcome: Outcome) -> None:
    assert outcome.violation is not None
    print(f"{len(outcome.faults)} faults are enough for: {outcome.violation.text}")
    for fault in outcome.faults:
        print(f"  {fault}")


if __name__ == "__main__":
    sys.exit(main())
