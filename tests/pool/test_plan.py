"""The plan: decisions in examples, and invariants under any sequence of facts."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kernelproto.pool.actions import (
    Action,
    Cull,
    Evict,
    Expire,
    HandOver,
    RefuseFull,
    RefuseQuota,
    Replace,
    Start,
)
from kernelproto.pool.limits import LeaseLimits, PoolLimits
from kernelproto.pool.plan import SETTLED_SECONDS, Plan
from kernelproto.pool.slots import Lease, Phase

ADA, BOB, EVE, KIM = (Lease(user, "default") for user in ("ada", "bob", "eve", "kim"))


class World:
    """Performs a plan immediately, on a clock of its own."""

    def __init__(self, **limits) -> None:
        self.plan = Plan(PoolLimits(**limits))
        self.now = 0.0

    def decide(self, now: float | None = None) -> list[Action]:
        self.now = self.now if now is None else now
        return self.plan.decide(self.now)

    def ask(
        self, lease: Lease, *, wait: bool = False, replaces: Lease | None = None
    ) -> tuple[int, list[Action]]:
        ticket = self.plan.ask(lease, wait=wait, replaces=replaces)
        return ticket, self.decide()

    def running(self, *leases: Lease) -> list[int]:
        """Have kernels that are idle, each a second longer than the next."""
        numbers = []
        for lease in leases:
            ticket, actions = self.ask(lease)
            (number,) = [action.slot for action in actions if isinstance(action, Start)]
            self.plan.started(number, self.now)
            self.plan.leave(ticket, self.now)
            numbers.append(number)
            self.now += 1
        return numbers


def test_kernels_of_other_programs_count() -> None:
    world = World(max_kernels=2)
    (ada,) = world.running(ADA)
    world.plan.elsewhere = 1
    assert world.plan.crowded is False
    ticket, actions = world.ask(BOB)
    assert actions == [Evict(ada)]
    world.plan.ended(ada)
    assert [type(action) for action in world.decide()] == [Start, HandOver]
    world.plan.leave(ticket, world.now)
    world.plan.elsewhere = 2
    eve, actions = world.ask(EVE)
    assert actions == [RefuseFull(eve, 0)]
    _, actions = world.ask(KIM, wait=True)
    assert actions == []
    world.plan.elsewhere = 0
    assert [type(action) for action in world.decide()] == [Start, HandOver]


def test_another_program_evicts_the_longest_idle_kernel() -> None:
    world = World()
    ada, bob, eve = world.running(ADA, BOB, EVE)
    world.plan.connected(ada, world.now)
    world.plan.is_suspended = True
    assert world.plan.evict(world.now + 10) is None
    world.plan.is_suspended = False
    assert world.plan.evict(world.now + 10) == Evict(bob)
    assert world.plan.evict(world.now + 10) == Evict(eve)
    assert world.plan.evict(world.now + 10) is None
    world.plan.ended(bob)
    (kim,) = world.running(KIM)
    assert world.plan.evict(world.now - 1) is None  # it may be between two executions
    assert world.plan.evict(world.now) == Evict(kim)


def test_suspended_plan_ends_no_kernel_by_itself() -> None:
    world = World(idle_timeout=10, max_age=100)
    (ada,) = world.running(ADA)
    world.plan.is_suspended = True
    assert world.plan.wake_at == math.inf
    assert world.decide(1000) == []
    world.plan.is_suspended = False
    assert world.decide(1000) == [Expire(ada)]


def test_first_request_starts_a_kernel_and_later_ones_share_it() -> None:
    world = World()
    first, actions = world.ask(ADA)
    assert actions == [Start(1, ADA, first), HandOver(first, 1)]
    second, actions = world.ask(ADA)
    assert actions == [HandOver(second, 1)]
    world.plan.started(1, 0)
    third, actions = world.ask(ADA)
    assert actions == [HandOver(third, 1)]
    _, actions = world.ask(BOB)
    assert actions == [Start(2, BOB, 4), HandOver(4, 2)]


def test_longest_idle_is_evicted_and_its_slot_is_reused_after_its_end() -> None:
    world = World(max_kernels=2)
    ada, bob = world.running(ADA, BOB)
    ticket, actions = world.ask(EVE)
    assert actions == [Evict(ada)]
    assert world.decide() == []
    world.plan.ended(ada)
    assert world.decide() == [Start(3, EVE, ticket), HandOver(ticket, 3)]
    assert world.plan.slot_of(ADA) is None
    assert world.plan.slot_of(BOB) == bob


def test_longest_idle_is_not_the_oldest() -> None:
    world = World(max_kernels=2)
    ada, bob = world.running(ADA, BOB)
    world.plan.used(ada, world.now)
    assert world.ask(EVE)[1] == [Evict(bob)]


def test_no_request_overtakes_waiting_ones() -> None:
    """Not even for the slot of a kernel that they leave alone."""
    world = World(max_kernels=1)
    (ada,) = world.running(ADA)
    world.plan.used(ada, world.now)
    world.ask(BOB, wait=True)
    eve, actions = world.ask(EVE)
    assert actions == [RefuseFull(eve, 1)]
    assert world.decide(world.now + SETTLED_SECONDS) == [Evict(ada)]


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING])
def test_kernel_that_ends_by_itself_leaves_its_lease(phase: Phase) -> None:
    world = World()
    world.ask(ADA)
    if phase is Phase.RUNNING:
        world.plan.started(1, 0)
    world.plan.ended(1)
    assert world.plan.slot_of(ADA) is None
    ticket, actions = world.ask(ADA)
    assert actions == [Start(2, ADA, ticket), HandOver(ticket, 2)]


def test_one_kernel_is_evicted_for_each_lease_in_line() -> None:
    world = World(max_kernels=2)
    ada, bob = world.running(ADA, BOB)
    assert world.ask(EVE)[1] == [Evict(ada)]
    assert world.ask(EVE)[1] == []
    assert world.ask(KIM)[1] == [Evict(bob)]
    world.plan.ended(bob)
    assert [type(action) for action in world.decide()] == [Start, HandOver, HandOver]
    world.plan.ended(ada)
    assert world.decide() == [Start(4, KIM, 5), HandOver(5, 4)]


def busy(plan: Plan, number: int) -> None:
    plan.busy(number, True)


def connected(plan: Plan, number: int) -> None:
    plan.connected(number, 0)


def held(plan: Plan, number: int) -> None:
    plan.ask(plan.slots[number].lease, wait=False)
    plan.decide(10)


USES = [busy, connected, held]


@pytest.mark.parametrize("use", USES)
def test_kernel_in_use_is_neither_evicted_nor_culled(use) -> None:
    world = World(max_kernels=2, idle_timeout=100)
    ada, bob = world.running(ADA, BOB)
    use(world.plan, ada)
    assert world.ask(EVE)[1] == [Evict(bob)]
    kim, actions = world.ask(KIM)
    assert actions == [RefuseFull(kim, 0)]
    assert world.decide(1_000_000) == []


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.ENDING])
def test_kernels_that_start_or_end_count(phase: Phase) -> None:
    world = World(max_kernels=1)
    world.ask(ADA)
    if phase is Phase.ENDING:
        world.plan.end(1)
        assert world.ask(BOB)[1] == []  # that slot is reserved
    ticket, actions = world.ask(EVE)
    assert actions == [RefuseFull(ticket, 0)]
    waiting, actions = world.ask(EVE, wait=True)
    assert actions == []
    ticket, actions = world.ask(KIM)
    assert actions == [RefuseFull(ticket, 1)]
    assert world.plan.slot_of(EVE) is None
    assert waiting


def test_restored_kernels_may_exceed_the_limit() -> None:
    world = World(max_kernels=1)
    plan = world.plan
    numbers = [plan.restore(lease) for lease in (ADA, BOB)]
    for number in numbers:
        plan.started(number, world.now)
    assert [slot.lease for slot in plan.slots.values()] == [ADA, BOB]
    assert plan.slot_of(ADA) == numbers[0]
    ticket, actions = world.ask(ADA)
    assert actions == [HandOver(ticket, numbers[0])]
    plan.leave(ticket, world.now)
    waiting, actions = world.ask(EVE, wait=True)
    assert actions == []
    assert world.decide(10) == [Evict(numbers[0])]
    plan.ended(numbers[0])
    assert world.decide() == [Evict(numbers[1])]
    plan.ended(numbers[1])
    start, hand_over = world.decide()
    assert isinstance(start, Start)
    assert hand_over == HandOver(waiting, start.slot)


def test_restored_kernel_keeps_its_clocks() -> None:
    world = World(max_kernels=5, idle_timeout=10, max_age=100)
    number = world.plan.restore(ADA)
    world.plan.started(number, -50)
    world.plan.used(number, -5)
    assert world.decide(4) == []
    assert world.decide(5) == [Cull(number)]


@pytest.mark.parametrize("max_per_user", [1, 2])
def test_lease_has_its_next_kernel_when_nothing_is_left_of_the_last(max_per_user: int) -> None:
    world = World(max_per_user=max_per_user)
    (ada,) = world.running(ADA)
    world.plan.end(ada)
    ticket, actions = world.ask(ADA)
    assert actions == []
    other, actions = world.ask(BOB)
    assert actions == [Start(2, BOB, other), HandOver(other, 2)]
    world.plan.ended(ada)
    assert world.decide() == [Start(3, ADA, ticket), HandOver(ticket, 3)]


def test_quota() -> None:
    world = World(max_per_user=2)
    one, two, three = (Lease("ada", name) for name in ("one", "two", "three"))
    world.ask(one)
    world.ask(two)
    ticket, actions = world.ask(three, wait=True)
    assert actions == [RefuseQuota(ticket)]
    assert isinstance(world.ask(BOB)[1][0], Start)
    world.plan.end(1)
    ticket, actions = world.ask(three)
    assert actions == []  # not refused, but the kernel that ends counts still
    ticket, actions = world.ask(one)
    assert actions == [RefuseQuota(ticket)]
    world.plan.ended(1)
    assert isinstance(world.decide()[0], Start)


def test_waiting_requests_are_served_in_order_and_first() -> None:
    world = World(max_kernels=1, max_per_user=2)
    world.ask(ADA)
    bob, _ = world.ask(BOB, wait=True)
    eve, _ = world.ask(EVE, wait=True)
    bob_too, _ = world.ask(BOB, wait=True)
    kim, actions = world.ask(KIM)
    assert actions == [RefuseFull(kim, 2)]
    world.plan.leave(bob, 0)  # the lease keeps its position in the queue
    world.plan.ended(1)
    assert world.decide() == [Start(2, BOB, bob_too), HandOver(bob_too, 2)]
    world.plan.ended(2)
    assert world.decide() == [Start(3, EVE, eve), HandOver(eve, 3)]


def test_cancelled_request_leaves_the_queue() -> None:
    world = World(max_kernels=1)
    world.ask(ADA)
    bob, _ = world.ask(BOB, wait=True)
    world.plan.leave(bob, 0)
    world.plan.ended(1)
    assert world.decide() == []


def test_impatient_one_is_refused_beside_a_patient_one() -> None:
    world = World(max_kernels=1)
    world.ask(ADA)
    patient, _ = world.ask(BOB, wait=True)
    impatient, actions = world.ask(BOB)
    assert actions == [RefuseFull(impatient, 0)]
    world.plan.ended(1)
    assert world.decide() == [Start(2, BOB, patient), HandOver(patient, 2)]


def test_waiting_request_does_not_evict_a_kernel_used_a_moment_ago() -> None:
    world = World(max_kernels=1)
    (ada,) = world.running(ADA)
    world.plan.used(ada, 10.0)
    _, actions = world.ask(BOB, wait=True)
    assert actions == []
    assert world.plan.wake_at == 10.0 + SETTLED_SECONDS
    world.plan.used(ada, 20.0)
    assert world.decide(world.plan.wake_at - 0.01) == []
    assert world.decide(world.plan.wake_at) == [Evict(ada)]
    assert world.plan.wake_at == math.inf


def test_line_does_not_take_kernels_away_before_they_are_used() -> None:
    """Each waiting request keeps its kernel long enough to begin something."""
    world = World(max_kernels=1)
    tickets = [world.ask(Lease(str(number), ""), wait=True)[0] for number in range(5)]
    for number, ticket in enumerate(tickets, start=1):
        world.plan.started(number, world.now)
        world.plan.leave(ticket, world.now)
        assert world.decide() == []
        world.plan.busy(number, True)
        assert world.decide(world.now + 100) == []
        world.plan.used(number, world.now)
        world.plan.busy(number, False)
        if number < 5:
            assert world.decide(world.plan.wake_at) == [Evict(number)]
        world.plan.ended(number)
        world.decide()


ADA_TOO = Lease("ada", "second")


@pytest.mark.parametrize("limits", [{"max_per_user": 1}, {"max_per_user": 2, "max_kernels": 1}])
@pytest.mark.parametrize("use", USES)
def test_request_replaces_a_kernel_of_its_user(limits, use) -> None:
    """The kernel ends in any state, and no other request gets its slot."""
    world = World(**limits)
    (ada,) = world.running(ADA)
    use(world.plan, ada)
    ticket, actions = world.ask(ADA_TOO, replaces=ADA)
    assert actions == [Replace(ada)]
    assert world.plan.slot_of(ADA) is None
    if "max_kernels" in limits:
        bob, actions = world.ask(BOB)
        assert actions == [RefuseFull(bob, 0)]
    world.plan.ended(ada)
    assert world.decide() == [Start(2, ADA_TOO, ticket), HandOver(ticket, 2)]


def test_nothing_is_given_up_while_there_is_room_for_both() -> None:
    world = World(max_kernels=2, max_per_user=2)
    (ada,) = world.running(ADA)
    ticket, actions = world.ask(ADA_TOO, replaces=ADA)
    assert actions == [Start(2, ADA_TOO, ticket), HandOver(ticket, 2)]
    assert world.plan.slot_of(ADA) == ada


def test_idle_kernel_makes_room_before_one_is_given_up() -> None:
    world = World(max_kernels=2, max_per_user=2)
    ada, bob = world.running(ADA, BOB)
    world.plan.connected(ada, 0)
    assert world.ask(ADA_TOO, replaces=ADA)[1] == [Evict(bob)]


def test_replacing_request_overtakes_waiting_ones() -> None:
    world = World(max_kernels=2, max_per_user=2)
    ada, bob = world.running(ADA, BOB)
    for number in (ada, bob):
        world.plan.connected(number, 0)
    eve, _ = world.ask(EVE, wait=True)
    ticket, actions = world.ask(ADA_TOO, replaces=ADA)
    assert actions == [Replace(ada)]
    world.plan.ended(ada)
    assert world.decide() == [Start(3, ADA_TOO, ticket), HandOver(ticket, 3)]
    world.plan.ended(bob)
    assert world.decide() == [Start(4, EVE, eve), HandOver(eve, 4)]


def test_kernel_that_is_gone_cannot_be_given_up() -> None:
    world = World(max_kernels=1, max_per_user=2)
    world.ask(BOB)
    ticket, actions = world.ask(ADA_TOO, replaces=ADA)
    assert actions == [RefuseFull(ticket, 0)]


@pytest.mark.parametrize(
    ("story", "culled_at"),
    [
        ([], 100),
        ([("used", 7)], 107),
        ([("used", 7), ("used", 3)], 107),
        ([("connected", 0), ("disconnected", 50)], 150),
        ([("connected", 20), ("disconnected", 50)], 130),
        ([("connected", 20), ("used", 40), ("disconnected", 50)], 150),
        ([("connected", 20), ("connected", 30), ("disconnected", 40), ("disconnected", 50)], 130),
        ([("connected", 20), ("disconnected", 30), ("connected", 40), ("disconnected", 50)], 120),
        ([("connected", 0), ("used", 60), ("disconnected", 50)], 160),
        ([("connected", 0), ("connected", 0), ("disconnected", 50)], None),
        ([("busy", True)], None),
        ([("busy", True), ("used", 30), ("busy", False)], 130),
    ],
)
def test_idle_clock(story, culled_at: float | None) -> None:
    world = World(idle_timeout=100)
    (number,) = world.running(ADA)
    for verb, *arguments in story:
        getattr(world.plan, verb)(number, *arguments)
    if culled_at is None:
        assert world.plan.wake_at == math.inf
        assert world.decide(1_000_000) == []
    else:
        assert world.plan.wake_at == culled_at
        assert world.decide(culled_at - 0.01) == []
        assert world.decide(culled_at) == [Cull(number)]


@pytest.mark.parametrize(
    ("story", "culled_at"),
    [
        ([("connected", 20)], 100),
        ([("connected", 20), ("disconnected", 50)], 100),
        ([("connected", 20), ("used", 40)], 140),
        ([("connected", 20), ("busy", True)], None),
        ([("connected", 20), ("busy", True), ("used", 30), ("busy", False)], 130),
    ],
)
def test_clients_do_not_stop_the_clock_with_cull_connected(story, culled_at: float | None) -> None:
    world = World(idle_timeout=100, cull_connected=True)
    (number,) = world.running(ADA)
    for verb, *arguments in story:
        getattr(world.plan, verb)(number, *arguments)
    assert world.plan.wake_at == (math.inf if culled_at is None else culled_at)
    assert world.decide(1_000_000) == ([] if culled_at is None else [Cull(number)])


def test_connected_kernel_is_not_evicted_with_cull_connected() -> None:
    world = World(max_kernels=1, idle_timeout=100, cull_connected=True)
    (ada,) = world.running(ADA)
    world.plan.connected(ada, 0)
    bob, actions = world.ask(BOB)
    assert actions == [RefuseFull(bob, 0)]


def test_client_that_only_connects_does_not_use_the_kernel() -> None:
    world = World(idle_timeout=100)
    (number,) = world.running(ADA)
    ticket, actions = world.ask(ADA)
    assert actions == [HandOver(ticket, number)]
    world.plan.connected(number, 20)
    world.plan.leave(ticket, 20, used=False)
    world.plan.disconnected(number, 20)
    assert world.decide(99) == []
    assert world.decide(100) == [Cull(number)]


@pytest.mark.parametrize("use", USES)
def test_kernel_of_maximum_age_ends_in_any_state(use) -> None:
    world = World(max_age=100, idle_timeout=None)
    (number,) = world.running(ADA)
    use(world.plan, number)
    world.plan.used(number, 50)
    assert world.plan.wake_at == 100
    assert world.decide(99) == []
    assert world.decide(100) == [Expire(number)]
    ticket, actions = world.ask(ADA)
    assert actions == []
    world.plan.ended(number)
    assert world.decide() == [Start(2, ADA, ticket), HandOver(ticket, 2)]


def test_request_at_the_maximum_age_gets_the_next_kernel() -> None:
    world = World(max_age=100)
    (number,) = world.running(ADA)
    world.now = 100
    _, actions = world.ask(ADA)
    assert actions == [Expire(number)]


def test_lease_has_the_limits_that_its_ticket_brings() -> None:
    world = World(max_per_user=1, idle_timeout=100)
    short = LeaseLimits(max_per_user=2, idle_timeout=10)
    one = world.plan.ask(ADA, wait=False, limits=short)
    world.decide()
    two = world.plan.ask(ADA_TOO, wait=False, limits=short)
    assert world.decide() == [Start(2, ADA_TOO, two), HandOver(two, 2)]
    three = world.plan.ask(Lease("ada", "third"), wait=False, limits=short)
    assert world.decide() == [RefuseQuota(three)]
    bob, _ = world.ask(BOB)
    for number, ticket in enumerate((one, two, bob), start=1):
        world.plan.started(number, number)
        world.plan.leave(ticket, number)
    assert world.decide(20) == [Cull(1), Cull(2)]
    assert world.decide(103) == [Cull(3)]


def test_lower_limit_of_a_user_does_not_block_a_reserved_slot() -> None:
    world = World(max_per_user=2)
    world.plan.ask(ADA_TOO, wait=False, limits=LeaseLimits(max_per_user=1))
    world.plan.ask(ADA, wait=False)
    assert [type(action) for action in world.decide()] == [Start, HandOver, Start, HandOver]


def test_being_asked_for_counts_as_use() -> None:
    world = World(idle_timeout=100)
    (number,) = world.running(ADA)
    ticket, actions = world.ask(ADA)
    world.now = 1000
    assert actions == [HandOver(ticket, number)]
    assert world.decide(1000) == []
    world.plan.leave(ticket, 1000)
    assert world.decide(1099) == []
    assert world.decide(1100) == [Cull(number)]


def test_request_at_the_last_moment_saves_the_kernel() -> None:
    world = World(idle_timeout=100)
    (number,) = world.running(ADA)
    world.now = 100
    ticket, actions = world.ask(ADA)
    assert actions == [HandOver(ticket, number)]


def test_nothing_is_culled_without_a_timeout() -> None:
    world = World(idle_timeout=None)
    world.running(ADA)
    assert world.plan.wake_at == math.inf
    assert world.decide(1_000_000) == []


def test_facts_that_come_too_late_change_nothing() -> None:
    world = World()
    (number,) = world.running(ADA)
    ticket, _ = world.ask(ADA)
    world.plan.ended(number)
    for verb, *arguments in [
        ("started", 1),
        ("busy", True),
        ("used", 1),
        ("connected", 1),
        ("disconnected", 1),
        ("end",),
        ("ended",),
    ]:
        getattr(world.plan, verb)(number, *arguments)
    world.plan.leave(ticket, 1)
    world.plan.leave(ticket, 1)
    assert dict(world.plan.slots) == {}
    assert world.decide() == []


def test_kernel_ended_during_its_start_never_runs() -> None:
    world = World()
    world.ask(ADA)
    world.plan.end(1)
    world.plan.started(1, 0)
    assert world.plan.slots[1].phase is Phase.ENDING


@pytest.mark.parametrize(
    "limits",
    [
        {"max_kernels": 0},
        {"max_per_user": 0},
        {"idle_timeout": 0},
        {"idle_timeout": -1},
        {"idle_timeout": math.nan},
        {"max_age": 0},
    ],
)
def test_limits_that_make_no_sense(limits) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        PoolLimits(**limits)


USERS = ["ada", "bob", "eve"]
NAMES = ["", "second"]


class PlanMachine(RuleBasedStateMachine):
    """Any facts in any order; each action is checked against the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = PoolLimits(max_kernels=3, max_per_user=2, idle_timeout=100)
        self.plan = Plan(self.limits)
        self.now = 0.0
        self.queued: dict[int, tuple[Lease, bool, Lease | None]] = {}
        self.handed: dict[int, int] = {}
        self.owners: dict[int, Lease] = {}

    def limits_of(self, lease: Lease) -> LeaseLimits | None:
        return None

    def decide(self) -> list[Action]:
        """Decide, and check each action against how things were before."""
        used = {number for number, slot in self.plan.slots.items() if not slot.idle}
        working = {number for number, slot in self.plan.slots.items() if not slot.unused}
        limits = {number: slot.limits for number, slot in self.plan.slots.items()}
        idle_since = {number: slot.idle_since for number, slot in self.plan.slots.items()}
        actions = self.plan.decide(self.now)
        for action in actions:
            match action:
                case Start(number, lease, ticket):
                    assert self.queued[ticket][0] == lease
                    assert number not in self.owners, "a slot is given once"
                    self.owners[number] = lease
                case HandOver(ticket, number):
                    lease, *_ = self.queued.pop(ticket)
                    assert self.owners[number] == lease, "a kernel belongs to one lease"
                    self.handed[ticket] = number
                case Evict(number):
                    assert number not in used
                    spared = [
                        other
                        for other, slot in self.plan.slots.items()
                        if slot.idle and other in idle_since
                    ]
                    assert all(idle_since[other] >= idle_since[number] for other in spared)
                case Replace(number):
                    replaced = self.owners[number]
                    given_up = [other for _, _, other in self.queued.values()]
                    assert replaced in given_up, "its user would have another one"
                    user = [p for p in self.plan.slots.values() if p.lease.user == replaced.user]
                    full = len(self.plan.slots) == self.limits.max_kernels
                    assert full or len(user) == self.limits.max_per_user, "there was no room"
                case Cull(number):
                    assert number not in (working if limits[number].cull_connected else used)
                    assert self.now - idle_since[number] >= limits[number].idle_timeout
                case Expire(number):
                    assert number not in self.numbers(Phase.STARTING)
                    assert self.now >= self.plan.slots[number].started_at + limits[number].max_age
                case RefuseFull(ticket, waiting):
                    lease, wait, replaces = self.queued.pop(ticket)
                    assert not wait, "a waiting request is never refused"
                    assert replaces is None or self.plan.slot_of(replaces) is None
                    free = [n for n, slot in self.plan.slots.items() if slot.idle]
                    assert waiting or not free
                case RefuseQuota(ticket):
                    *_, replaces = self.queued.pop(ticket)
                    assert replaces is None or self.plan.slot_of(replaces) is None
        assert self.plan.decide(self.now) == [], "nothing is left undecided"
        return actions

    def pick(self, data: st.DataObject, *phases: Phase) -> int:
        return data.draw(st.sampled_from(self.numbers(*phases)))

    def numbers(self, *phases: Phase) -> list[int]:
        return [n for n, slot in self.plan.slots.items() if slot.phase in phases]

    @rule(
        user=st.sampled_from(USERS),
        name=st.sampled_from(NAMES),
        wait=st.booleans(),
        other=st.none() | st.sampled_from(NAMES),
    )
    def ask(self, user: str, name: str, wait: bool, other: str | None) -> None:
        lease = Lease(user, name)
        replaces = None if other is None else Lease(user, other)
        limits = self.limits_of(lease)
        ticket = self.plan.ask(lease, wait=wait, replaces=replaces, limits=limits)
        self.queued[ticket] = lease, wait, replaces
        before = {t for t, (_, waits, _) in self.queued.items() if not waits and t != ticket}
        self.decide()
        assert before <= {*self.queued, *self.handed}, "a lease with a reserved slot gets it"

    @precondition(lambda self: self.queued or self.handed)
    @rule(data=st.data(), used=st.booleans())
    def leave(self, data: st.DataObject, used: bool) -> None:
        ticket = data.draw(st.sampled_from([*self.queued, *self.handed]))
        self.queued.pop(ticket, None)
        self.handed.pop(ticket, None)
        self.plan.leave(ticket, self.now, used=used)
        self.decide()

    @precondition(lambda self: self.numbers(Phase.STARTING))
    @rule(data=st.data())
    def started(self, data: st.DataObject) -> None:
        self.plan.started(self.pick(data, Phase.STARTING), self.now)
        self.decide()

    @precondition(lambda self: self.plan.slots)
    @rule(data=st.data())
    def ended(self, data: st.DataObject) -> None:
        self.plan.ended(self.pick(data, *Phase))
        self.decide()

    @precondition(lambda self: self.plan.slots)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.plan.end(self.pick(data, *Phase))
        self.decide()

    @rule()
    def evict_for_another_program(self) -> None:
        settled = {
            number: slot.idle_since
            for number, slot in self.plan.slots.items()
            if slot.idle and slot.idle_since + SETTLED_SECONDS <= self.now
        }
        action = self.plan.evict(self.now)
        if action is None:
            assert not settled
        else:
            assert settled[action.slot] == min(settled.values())
            assert self.plan.slots[action.slot].phase is Phase.ENDING
        self.decide()

    @precondition(lambda self: self.numbers(Phase.RUNNING))
    @rule(data=st.data(), busy=st.booleans())
    def busy(self, data: st.DataObject, busy: bool) -> None:
        self.plan.busy(self.pick(data, Phase.RUNNING), busy)
        self.decide()

    @precondition(lambda self: self.numbers(Phase.RUNNING))
    @rule(data=st.data())
    def used(self, data: st.DataObject) -> None:
        self.plan.used(self.pick(data, Phase.RUNNING), self.now)
        self.decide()

    @precondition(lambda self: self.numbers(Phase.RUNNING))
    @rule(data=st.data())
    def connected(self, data: st.DataObject) -> None:
        self.plan.connected(self.pick(data, Phase.RUNNING), self.now)
        self.decide()

    @precondition(lambda self: any(slot.connections for slot in self.plan.slots.values()))
    @rule(data=st.data())
    def disconnected(self, data: st.DataObject) -> None:
        numbers = [n for n, slot in self.plan.slots.items() if slot.connections]
        self.plan.disconnected(data.draw(st.sampled_from(numbers)), self.now)
        self.decide()

    @rule(seconds=st.sampled_from([0.125, SETTLED_SECONDS, 1, 50, 200]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.decide()

    @rule()
    def time_passes_until_the_plan_wants_to_be_woken(self) -> None:
        if self.plan.wake_at < math.inf:
            assert self.plan.wake_at > self.now, "it would be woken without end"
            self.now = self.plan.wake_at
            assert self.decide(), "it was woken for nothing"

    @invariant()
    def limits_are_kept(self) -> None:
        slots = self.plan.slots.values()
        assert len(slots) <= self.limits.max_kernels
        assert len({slot.lease for slot in slots}) == len(slots), "one kernel for a lease"
        users = Counter(slot.lease.user for slot in slots)
        assert max(users.values(), default=0) <= self.limits.max_per_user
        for number, slot in self.plan.slots.items():
            assert slot.lease == self.owners[number], "a kernel never changes its user"

    def teardown(self) -> None:
        """If all kernels become idle and disconnect, every queued lease gets a kernel."""
        for _ in range(2 * len(self.queued) + 5):
            for ticket in list(self.handed):
                self.plan.leave(ticket, self.now)
                del self.handed[ticket]
            for number, slot in list(self.plan.slots.items()):
                self.plan.started(number, self.now)
                self.plan.busy(number, False)
                for _ in range(slot.connections):
                    self.plan.disconnected(number, self.now)
                if slot.phase is Phase.ENDING:
                    self.plan.ended(number)
            self.now += 1
            self.decide()
        assert self.queued == {}, "no request waits forever"


TestWhateverHappens = PlanMachine.TestCase
TestWhateverHappens.settings = settings(
    max_examples=2 * settings.default.max_examples, stateful_step_count=40
)
