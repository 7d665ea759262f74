"""DeathReason, the one interface with code; the others have only signatures."""

from __future__ import annotations

import copy
import pickle

from kernelproto import Died
from kernelproto.interfaces import DeathReason

MEMORY = DeathReason("it had reached its limit of memory", "memory_limit")


def test_death_reason_is_a_string_with_a_cause() -> None:
    assert MEMORY == "it had reached its limit of memory"
    assert Died(1, MEMORY) == Died(1, str(MEMORY))
    assert copy.copy(MEMORY).cause == "memory_limit"
    assert pickle.loads(pickle.dumps(MEMORY)).cause == "memory_limit"
