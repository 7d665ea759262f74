"""The plan decides as one that looks through everything, whatever happens."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from kernelproto.pool.actions import Action, HandOver, RefuseFull, RefuseQuota, Start
from kernelproto.pool.limits import LeaseLimits, PoolLimits
from kernelproto.pool.plan import Plan
from kernelproto.pool.slots import Lease, Slot
from tests.pool.scanning_plan import ScanningPlan
from tests.pool.test_plan import PlanMachine

USERS = [str(number) for number in range(7)]
NAMES = ["", "second", "third"]
OTHERS = st.none() | st.sampled_from(NAMES)


class BothPlans:
    """The plan of the pool and the slow one; each fact is told to both, and they must agree."""

    def __init__(self, limits: PoolLimits) -> None:
        self._plan = Plan(limits)
        self._slow = ScanningPlan(limits)

    def __getattr__(self, verb: str):
        def tell(*arguments, **options):
            answer = getattr(self._plan, verb)(*arguments, **options)
            assert getattr(self._slow, verb)(*arguments, **options) == answer
            return answer

        return tell

    def decide(self, now: float) -> list[Action]:
        actions = self._plan.decide(now)
        assert actions == self._slow.decide(now)
        assert self._plan.has_unserved == self._slow.has_unserved
        for user in {slot.lease.user for slot in self._slow.slots.values()}:
            mine = {n: p for n, p in self._slow.slots.items() if p.lease.user == user}
            assert self._plan.slots_of(user) == mine
        return actions

    @property
    def slots(self) -> Mapping[int, Slot]:
        assert self._plan.slots == self._slow.slots
        return self._plan.slots

    @property
    def wake_at(self) -> float:
        assert self._plan.wake_at == self._slow.wake_at
        return self._plan.wake_at


class EqualityMachine(PlanMachine):
    """Anything happens in any order, also several things before the next decision."""

    @initialize(
        max_kernels=st.integers(1, 5),
        max_per_user=st.integers(1, 3),
        idle_timeout=st.sampled_from([None, 100]),
    )
    def limit(self, **limits) -> None:
        self.limits = PoolLimits(**limits)
        self.plan = BothPlans(self.limits)
        self.own_limits = {
            "second": LeaseLimits(
                max_per_user=self.limits.max_per_user, idle_timeout=50, cull_connected=True
            ),
            "third": LeaseLimits(max_per_user=self.limits.max_per_user, max_age=150),
        }

    def limits_of(self, lease: Lease) -> LeaseLimits | None:
        return self.own_limits.get(lease.name)

    @rule(
        asked=st.lists(
            st.tuples(st.sampled_from(USERS), st.sampled_from(NAMES), st.booleans(), OTHERS),
            max_size=8,
        )
    )
    def many_ask(self, asked: list[tuple[str, str, bool, str | None]]) -> None:
        for user, name, wait, other in asked:
            lease = Lease(user, name)
            replaces = None if other is None else Lease(user, other)
            limits = self.limits_of(lease)
            ticket = self.plan.ask(lease, wait=wait, replaces=replaces, limits=limits)
            self.queued[ticket] = lease, wait, replaces
        for action in self.plan.decide(self.now):
            match action:
                case Start(number, lease, _):
                    self.owners[number] = lease
                case HandOver(ticket, number):
                    del self.queued[ticket]
                    self.handed[ticket] = number
                case RefuseFull(ticket) | RefuseQuota(ticket):
                    del self.queued[ticket]
        self.decide()


TestTheSameIsDecided = EqualityMachine.TestCase
TestTheSameIsDecided.settings = settings(
    max_examples=2 * settings.default.max_examples, stateful_step_count=40
)
