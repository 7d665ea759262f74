"""RestartPolicy: decides whether and when a dead kernel is restarted. Pure.

The policy uses the time that each process was ready before it died. A process that was ready for
``stable_after`` seconds counts as a success; only the consecutive deaths after the last success
count. The first restart follows at once, because most crashes are single ones. Later restarts wait
longer each time, so that a kernel that dies during each start does not keep the machine busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """The wait before each consecutive restart but the first.

    Args:
        initial: the wait before the second restart, in seconds.
        factor: the factor by which each further wait is longer, from 1 to 10.
        maximum: the longest wait, in seconds.
        jitter: the random part of the wait, from 0 to 1, so that kernels that died together do not
            restart at the same moment.
    """

    initial: float = 0.5
    factor: float = 2.0
    maximum: float = 30.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if self.initial < 0 or self.maximum < 0:
            raise ValueError("a Backoff's initial and maximum are numbers of seconds, 0 or more")
        if not 1 <= self.factor <= 10 or not 0 <= self.jitter <= 1:
            raise ValueError("a Backoff's factor is from 1 to 10, and its jitter from 0 to 1")

    def delay(self, attempt: int, chance: float) -> float:
        """Return the seconds to wait before a restart.

        Args:
            attempt: the consecutive attempt number, starting at 1.
            chance: a random number from 0 to 1.
        """
        if attempt <= 1:
            return 0.0
        # The exponent is clamped, because the power would overflow a float.
        longest = min(self.maximum, self.initial * self.factor ** min(attempt - 2, 64))
        return longest * (1 - self.jitter * chance)


class Restart(msgspec.Struct, frozen=True):
    """Restart the kernel.

    Args:
        attempt: the consecutive attempt number, starting at 1.
        delay: the wait before the restart, in seconds.
    """

    attempt: int
    delay: float


class GiveUp(msgspec.Struct, frozen=True):
    """Leave the kernel dead.

    Args:
        attempts: the number of consecutive restarts that failed.
    """

    attempts: int


Decision: TypeAlias = Restart | GiveUp


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and when a kernel that has died is restarted.

    Args:
        limit: the maximum number of consecutive restarts; 0 means none.
        time_to_dead: the seconds that the heartbeat may be silent before the kernel counts as dead
            and is killed; None means that the heartbeat is not watched. A kernel that has never
            answered a heartbeat is not killed.
        stable_after: a kernel that was ready for this many seconds has recovered: the count of
            restarts begins at 0.
        backoff: the wait before each restart but the first.
    """

    limit: int = 5
    time_to_dead: float | None = 3.0
    stable_after: float = 10.0
    backoff: Backoff = Backoff()

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if self.limit < 0:
            raise ValueError("a RestartPolicy's limit is 0 or more")
        if self.time_to_dead is not None and self.time_to_dead <= 0:
            raise ValueError("a RestartPolicy's time_to_dead is a positive number of seconds")

    def decide(self, uptimes: Sequence[float], chance: float) -> Decision:
        """Decide whether to restart a kernel that has just died.

        Args:
            uptimes: the seconds that each process was ready until it died, oldest first; 0 for a
                process that did not become ready. The last one has just died.
            chance: a random number from 0 to 1.
        """
        attempt = 1
        for uptime in reversed(uptimes):
            if uptime >= self.stable_after:
                break
            attempt += 1
        else:
            attempt = max(attempt - 1, 1)  # the first process was not a restart
        if attempt > self.limit:
            return GiveUp(attempt - 1)
        return Restart(attempt, self.backoff.delay(attempt, chance))
