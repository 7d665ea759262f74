from __future__ import annotations

import pytest

from kernelproto import Died
from kernelproto.interfaces import DeathReason

MEMORY = DeathReason("it had reached its limit of memory", "memory_limit")


@pytest.mark.parametrize(
    ("death", "cause", "words"),
    [
        (Died(-9), "signal", "signal 9 (SIGKILL)"),
        (Died(0), "exit_status", "exit status 0"),
        (Died(3), "exit_status", "exit status 3"),
        (Died(None), "unknown", "an unknown exit status"),
        (Died(1, "the cluster is gone"), "other", "exit status 1 (the cluster is gone)"),
        (Died(1, MEMORY), "memory_limit", "exit status 1 (it had reached its limit of memory)"),
    ],
)
def test_death_in_words(death: Died, cause: str, words: str) -> None:
    assert (death.cause, str(death)) == (cause, words)
