"""RestartPolicy: whether a kernel that has died is started again, and when. Pure.

The policy looks at how long each process was ready before it died. A process that was ready for
``stable_after`` seconds is a success, whatever became of it then; only the deaths in a row after
the last success count. The first restart follows at once: most crashes are single ones. Later ones
wait longer each time, so that a kernel that dies while it starts never keeps the machine busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait before a restart that is not the first in a row.

    Args:
        initial: before the second restart in a row, in seconds.
        factor: how much longer each further one is waited for, from 1 to 10.
        maximum: the longest wait, in seconds.
        jitter: which part of the wait is left to chance, from 0 to 1, so that kernels that have
            died together do not all come back at the same moment.
    """

    initial: float = 0.5
    factor: float = 2.0
    maximum: float = 30.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.initial < 0 or self.maximum < 0:
            raise ValueError("a Backoff's initial and maximum are numbers of seconds, 0 or more")
        if not 1 <= self.factor <= 10 or not 0 <= self.jitter <= 1:
            raise ValueError("a Backoff's factor is from 1 to 10, and its jitter from 0 to 1")

    def delay(self, attempt: int, chance: float) -> float:
        """Return the seconds to wait before a restart.

        Args:
            attempt: the how manieth in a row it is, from 1.
            chance: a random number from 0 to 1.
        """
        if attempt <= 1:
            return 0.0
        # A clamped exponent, because no float holds the power that a patient policy gets to.
        longest = min(self.maximum, self.initial * self.factor ** min(attempt - 2, 64))
        return longest * (1 - self.jitter * chance)


class Restart(msgspec.Struct, frozen=True):
    """Start the kernel again.

    Args:
        attempt: the how manieth start in a row this is, from 1.
        delay: how long to wait before it, in seconds.
    """

    attempt: int
    delay: float


class GiveUp(msgspec.Struct, frozen=True):
    """Leave the kernel dead.

    Args:
        attempts: how many starts in a row were in vain.
    """

    attempts: int


Decision: TypeAlias = Restart | GiveUp


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a kernel that has died is started again.

    Args:
        limit: how many restarts in a row are tried; 0 means none.
        time_to_dead: for how many seconds the heartbeat may be silent before the kernel is taken
            for dead and killed; None means that the heartbeat is not looked at. A kernel that has
            never answered a heartbeat is not judged by it.
        stable_after: a kernel that was ready for this many seconds has recovered: the count of
            restarts begins anew.
        backoff: how long to wait before each restart but the first.
    """

    limit: int = 5
    time_to_dead: float | None = 3.0
    stable_after: float = 10.0
    backoff: Backoff = Backoff()

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.limit < 0:
            raise ValueError("a RestartPolicy's limit is 0 or more")
        if self.time_to_dead is not None and self.time_to_dead <= 0:
            raise ValueError("a RestartPolicy's time_to_dead is a positive number of seconds")

    def decide(self, uptimes: Sequence[float], chance: float) -> Decision:
        """Say what to do now that the kernel has died.

        Args:
            uptimes: for how many seconds each process was ready until it died, oldest first; 0 for
                one that did not become ready. The last one is that which has just died.
            chance: a random number from 0 to 1.
        """
        attempt = 1
        for uptime in reversed(uptimes):
            if uptime >= self.stable_after:
                break
            attempt += 1
        else:
            attempt = max(attempt - 1, 1)  # the first process of all was no restart
        if attempt > self.limit:
            return GiveUp(attempt - 1)
        return Restart(attempt, self.backoff.delay(attempt, chance))
