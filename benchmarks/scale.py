"""Scale: one day of many users on many nodes. Plan, registries and kernels' clients are real.

    python -m benchmarks.scale --users 10000 --nodes 100 --postgresql --plot docs/benchmarks

Most users come at nine, work in bursts, and take breaks in which their kernels are culled. At
eleven a node is lost with all its kernels. The users and the nodes are events on a simulated clock,
so a day takes minutes. The processor time of each call of the plan is measured. Then that of the
statements of the registries in SQLite and in PostgreSQL, with as many kernels as the day had at
once, and the memory and the processor time of kernels in a program.

All times are processor time, so other work on the machine changes them little. Those of PostgreSQL
are of the client and of all processes of the server together; ``--postgresql`` starts a server.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import os
import random
import resource
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio

from kernelproto import KernelFinder, KernelPool
from kernelproto.interfaces import KernelHandle
from kernelproto.pool.actions import Cull, Evict, Expire, HandOver, RefuseFull, Replace, Start
from kernelproto.pool.limits import PoolLimits
from kernelproto.pool.plan import Plan
from kernelproto.pool.slots import Lease
from kernelproto.registry import SQLiteRegistry
from kernelproto.registry.postgresql import PostgreSQLRegistry
from kernelproto.testing import FakeProvider
from tests.registry.postgres import Postgres

HOUR = 3600.0
BEGIN, NODE_LOSS, END = 7 * HOUR, 11 * HOUR, 20 * HOUR

KERNELS_PER_NODE = 100
IDLE_TIMEOUT = 1800.0
START_SECONDS, END_SECONDS = 2.0, 0.2
RETRY_SECONDS = 60.0

# How users work, in seconds: at work, between two executions, one execution, a break.
WORK, PAUSE, EXECUTION, BREAK = 4 * HOUR, 90.0, 5.0, 45 * 60.0
BREAKS = 0.02
EARLY = 0.7  # the share of users who come at nine

RENEW_SECONDS = 5.0
NOTES = 10  # the number of kernels whose notes a server stores in one step, once a second
FAKE_KERNELS = 200


class Day:
    """A day of users, on a simulated clock.

    Attributes:
        seconds: the time that each kind of call of the plan took, in seconds.
        counts: the number of starts, ends and refusals.
        load: the time, the number of kernels, and the number of writes to the registry so far.
    """

    def __init__(self, users: int, nodes: int, seed: int) -> None:
        self.seconds: dict[str, list[float]] = {"fact": [], "decision": []}
        self.counts = Counter[str]()
        self.load: list[tuple[float, int, int]] = []
        self.now = BEGIN
        self.nodes = [set[int]() for _ in range(nodes)]
        self.plan = Plan(
            PoolLimits(max_kernels=nodes * KERNELS_PER_NODE, idle_timeout=IDLE_TIMEOUT)
        )
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wake_at = float("inf")
        self._leases: dict[int, Lease] = {}
        self._tickets: dict[int, Lease] = {}
        self._ends: dict[Lease, float] = {}
        for number in range(users):
            self._come(Lease(f"user {number}", "default"))
        self._at(NODE_LOSS, self._lose_node)
        self._at(BEGIN, self._note_load)

    def run(self) -> None:
        """Run until the end of the day."""
        while self._events and self._events[0][0] < END:
            self.now, _, happen = heapq.heappop(self._events)
            happen()

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when, self.now), next(self._order), happen))

    def _after(self, mean: float, happen: Callable[[], None]) -> None:
        self._at(self.now + self._chance.expovariate(1 / mean), happen)

    def _come(self, lease: Lease) -> None:
        """Let a user come: most at nine, the others at any time."""
        chance = self._chance
        is_early = chance.random() < EARLY
        arrival = chance.gauss(9 * HOUR, 600) if is_early else chance.uniform(BEGIN, 17 * HOUR)
        self._ends[lease] = arrival + chance.expovariate(1 / WORK)
        self._at(arrival, lambda: self._ask(lease))

    def _fact(self, report: Callable[..., object], *facts: object) -> None:
        """Report a fact to the plan, as the executor does: it then asks when to look again."""
        began = time.thread_time()
        report(*facts)
        wake_at = self.plan.wake_at
        self.seconds["fact"].append(time.thread_time() - began)
        self._arm(wake_at)

    def _arm(self, wake_at: float) -> None:
        if wake_at < self._wake_at:
            self._wake_at = wake_at
            self._at(wake_at, self._wake)

    def _wake(self) -> None:
        self._wake_at = float("inf")
        self._decide()

    def _decide(self) -> None:
        began = time.thread_time()
        actions = self.plan.decide(self.now)
        self.seconds["decision"].append(time.thread_time() - began)
        for action in actions:
            match action:
                case Start(slot, lease, _):
                    self._start(slot, lease)
                case HandOver(ticket, slot):
                    self._hand_over(ticket, slot)
                case Evict(slot) | Replace(slot) | Cull(slot) | Expire(slot):
                    self._at(self.now + END_SECONDS, lambda slot=slot: self._ended(slot))
                case RefuseFull(ticket, _):
                    self._refuse(ticket)
                case _:
                    raise AssertionError(f"unexpected: {action}")
        self._arm(self.plan.wake_at)

    def _ask(self, lease: Lease) -> None:
        if self.now < self._ends[lease]:
            ticket = self.plan.ask(lease, wait=False)
            self._tickets[ticket] = lease
            self._decide()

    def _start(self, slot: int, lease: Lease) -> None:
        self.counts["started"] += 1
        self._leases[slot] = lease
        min(self.nodes, key=len).add(slot)
        self._at(self.now + START_SECONDS, lambda: self._fact(self.plan.started, slot, self.now))

    def _hand_over(self, ticket: int, slot: int) -> None:
        lease = self._tickets.pop(ticket)

        def leave() -> None:
            self._fact(lambda: self.plan.leave(ticket, self.now))
            self._execute(slot, lease)

        self._at(self.now + START_SECONDS, leave)

    def _refuse(self, ticket: int) -> None:
        self.counts["refused"] += 1
        lease = self._tickets.pop(ticket)
        self.plan.leave(ticket, self.now)
        self._after(RETRY_SECONDS, lambda: self._ask(lease))

    def _execute(self, slot: int, lease: Lease) -> None:
        if self._leases.get(slot) is not lease or self.plan.slot_of(lease) != slot:
            self._after(PAUSE, lambda: self._ask(lease))  # the kernel is gone: ask for another
        elif self.now > self._ends[lease]:
            return  # the user goes home, and the kernel is culled
        elif self._chance.random() < BREAKS:
            self._after(BREAK, lambda: self._execute(slot, lease))
        else:
            self.counts["executions"] += 1
            self._fact(self.plan.busy, slot, True)
            self._after(EXECUTION, lambda: self._finish(slot, lease))

    def _finish(self, slot: int, lease: Lease) -> None:
        self._fact(self.plan.busy, slot, False)
        self._fact(self.plan.used, slot, self.now)
        self._after(PAUSE, lambda: self._execute(slot, lease))

    def _ended(self, slot: int) -> None:
        if self._leases.pop(slot, None) is not None:
            self.counts["ended"] += 1
            for kernels in self.nodes:
                kernels.discard(slot)
            self.plan.ended(slot)
            self._decide()

    def _lose_node(self) -> None:
        lost = self.nodes.pop(0)
        self.counts["lost with a node"] = len(lost)
        for slot in list(lost):
            self._ended(slot)

    def _note_load(self) -> None:
        writes = 2 * self.counts["started"] + self.counts["ended"]
        self.load.append((self.now, len(self.plan.slots), writes))
        self._at(self.now + 60, self._note_load)


async def time_registry(
    registry: SQLiteRegistry | PostgreSQLRegistry,
    kernels: int,
    nodes: int,
    cpu: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Return the mean processor time of each statement, with so many kernels in the registry.

    Args:
        registry: not open, and without kernels.
        kernels: the number of kernels.
        nodes: the number of nodes that hold them.
        cpu: returns the processor time of all programs that take part.
    """
    handle = KernelHandle(
        host="local",
        kernel_type="spec/python3",
        kernel_id="x" * 36,
        place={"kernel_id": "x" * 36, "connection_file": "x" * 80},
    )
    seconds: dict[str, float] = {}

    async def timed(name: str, calls: list[Callable[[], Awaitable[object]]]) -> None:
        began = cpu()
        for call in calls:
            await call()
        seconds[name] = (cpu() - began) / len(calls)

    keys = [f"{number:036}" for number in range(kernels)]
    names = [f"node {number}" for number in range(nodes)]
    some = keys[:1000]
    async with registry:
        add = partial(registry.add, name="default", kernel_type="spec/python3", seconds=30.0)
        await timed(
            "add", [partial(add, key, owner=key, node=names[hash(key) % nodes]) for key in keys]
        )
        await timed("set_handle", [partial(registry.set_handle, key, 1, handle) for key in some])
        await timed("renew", [partial(registry.renew, name, seconds=30.0) for name in names])
        notes = [dict.fromkeys(keys[number::nodes][:NOTES], "x" * 1000) for number in range(nodes)]
        await timed(
            "set_notes",
            [partial(registry.set_notes, *each) for each in zip(names, notes, strict=True)],
        )
        await timed("remove", [partial(registry.remove, key, 1) for key in some])
        await timed("read all", [registry.kernels])
    return seconds


async def measure_kernels(count: int) -> tuple[float, float]:
    """Return the bytes of each kernel in a program, with the fake itself, and CPU s an execute."""
    async with FakeProvider() as provider:
        pool = KernelPool(
            finder=KernelFinder([provider]), kernel_type="fake/kernel", max_kernels=count
        )
        async with pool:
            await pool.get("warm up")
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            for number in range(count - 1):
                await pool.get(f"user {number}")
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            began = time.process_time()
            for number in range(count - 1):
                await (await pool.get(f"user {number}")).execute("pass")
            seconds = (time.process_time() - began) / (count - 1)
    return (after - before) / (count - 1), seconds


def main() -> None:
    """Print the figures, and draw them if wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgresql", action="store_true", help="measure PostgreSQL as well")
    parser.add_argument("--plot", type=Path, help="the folder of the plot")
    options = parser.parse_args()

    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    began = time.process_time()
    day = Day(options.users, options.nodes, options.seed)
    day.run()
    _report_day(day, time.process_time() - began)
    most = max(kernels for _, kernels, _ in day.load)
    print(f"\nmemory of the plan: {plan_bytes(most):,.0f} bytes a kernel")
    with tempfile.TemporaryDirectory() as folder:
        file = SQLiteRegistry(Path(folder) / "kernels.sqlite")
        statements = anyio.run(time_registry, file, most, options.nodes)
    _report_registry("SQLite", day, statements, options.nodes)
    if options.postgresql:
        with closing(Postgres()) as server:
            before = server.cpu()
            registry = PostgreSQLRegistry(server.url)

            def cpu() -> float:
                return time.process_time() + server.cpu() - before

            statements = anyio.run(time_registry, registry, most, options.nodes, cpu)
        _report_registry("PostgreSQL", day, statements, options.nodes)
    memory, seconds = anyio.run(measure_kernels, FAKE_KERNELS)
    print(
        f"\na kernel in a program: {memory / 1024:,.0f} KiB (with the fake kernel), "
        f"{seconds * 1e3:.2f} ms of processor time an execution"
    )
    print(f"peak memory of this program: {_peak_memory() / 2**20:,.0f} MiB")
    if options.plot:
        draw(day, options.plot / "scale.png")


def plan_bytes(kernels: int) -> float:
    """Return the bytes that a plan holds for each running kernel."""
    tracemalloc.start()
    plan = Plan(PoolLimits(max_kernels=kernels, idle_timeout=IDLE_TIMEOUT))
    before, _ = tracemalloc.get_traced_memory()
    for number in range(kernels):
        ticket = plan.ask(Lease(f"user {number}", "default"), wait=False)
        plan.decide(0.0)
        plan.started(number + 1, 0.0)
        plan.leave(ticket, 0.0)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / kernels


def draw(day: Day, file: Path) -> None:
    """Draw the kernels and the writes to the registry over the day, and the times of decisions."""
    # Only the plot needs matplotlib.
    from matplotlib.figure import Figure

    from benchmarks.plots import INK, OURS, tint

    hours = [when / HOUR for when, _, _ in day.load]
    writes = [writes for _, _, writes in day.load]
    rates = [0.0, *((after - before) / 60 for before, after in itertools.pairwise(writes))]
    figure = Figure(figsize=(8, 9), layout="constrained")
    above, middle, below = figure.subplots(3)
    above.plot(hours, [kernels for _, kernels, _ in day.load], color=OURS)
    above.set_ylabel("kernels")
    above.axvline(NODE_LOSS / HOUR, color=INK, linewidth=0.8, linestyle=":")
    above.annotate(" a node is lost", (NODE_LOSS / HOUR, 0), color=INK, fontsize=9)
    middle.plot(hours, rates, color=OURS)
    middle.set_ylabel("writes a second to the registry,\nwithout renewals")
    middle.set_xlabel("hour of the day")
    for name, colour in (("fact", OURS), ("decision", "#e0803a")):
        taken = sorted(seconds * 1e6 for seconds in day.seconds[name])
        shares = [1 - rank / len(taken) for rank in range(len(taken))]
        below.loglog(taken, shares, color=colour, label=name)
    below.set_xlabel("microseconds of processor time")
    below.set_ylabel("share of calls of the plan\nthat take longer")
    below.legend(frameon=False, labelcolor=INK)
    for axes in (above, middle, below):
        tint(axes)
    figure.savefig(file, dpi=120, transparent=True)


def _report_day(day: Day, seconds: float) -> None:
    print(f"the day took {seconds:.0f} s")
    for name, count in day.counts.items():
        print(f"{count:10,} {name}")
    print(f"{max(kernels for _, kernels, _ in day.load):10,} kernels at once")
    for name, each in day.seconds.items():
        taken = sorted(each)
        middle, rare = taken[len(taken) // 2], taken[int(len(taken) * 0.999)]
        print(
            f"{len(taken):10,} calls of the plan with a {name}: median {middle * 1e6:.1f} us, "
            f"99.9 % {rare * 1e6:.1f} us, longest {taken[-1] * 1e3:.2f} ms, sum {sum(taken):.1f} s"
        )


def _report_registry(store: str, day: Day, statements: dict[str, float], nodes: int) -> None:
    print(f"\nthe registry in {store}, processor time of a call:")
    for name, seconds in statements.items():
        print(f"  {name}: {seconds * 1e3:.2f} ms")
    minutes = itertools.pairwise(writes for _, _, writes in day.load)
    busiest = max(after - before for before, after in minutes) / 60
    renewals = nodes / RENEW_SECONDS
    load = busiest * statements["add"] + renewals * statements["renew"]
    load += nodes * statements["set_notes"]
    print(
        f"  in the busiest minute {busiest:.1f} starts and ends, {renewals:.1f} renewals and "
        f"{nodes} steps of notes a second: {load:.1%} of a processor"
    )


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
