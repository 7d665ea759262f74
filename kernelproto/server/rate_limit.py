"""RateLimit: how often each user may do something. Pure.

A token bucket for each user: *burst* times at once, then *per_minute* times a minute on average. A
bucket is one number, the time at which it will be full again; one that is full is forgotten.
"""

from __future__ import annotations

# Seconds. The sum of many intervals is not quite what it should be, and no reason to refuse.
_SLACK = 1e-6


class RateLimit:
    """How often each of many users may do something.

    It keeps a number for each user who has done it within the time that an empty bucket takes to
    fill, and for nobody else.

    Args:
        per_minute: how often on average; 0 means as often as they like.
        burst: how often at once, 1 or more.
        most: for how many users it keeps something; the one seen longest ago is forgotten beyond.
            None means any number.
    """

    def __init__(self, *, per_minute: float, burst: int, most: int | None = None) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._capacity = burst * self._interval
        self._most = most
        # In the order of their last use: one that is full may wait behind one that is not.
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        """Return for how many users it keeps something."""
        return len(self._full_at)

    def take(self, user: str, now: float) -> float:
        """Count that a user does it once more, if they may.

        Args:
            user: who does it.
            now: the time in seconds, on a clock that does not go back.

        Returns:
            0 if they may; else the seconds until they may, and then nothing was counted.
        """
        self._forget(now)
        full_at = max(self._full_at.get(user, now), now) + self._interval
        wait = full_at - now - self._capacity
        if wait > _SLACK:
            return wait
        if self._interval:
            self._full_at.pop(user, None)
            self._full_at[user] = full_at
            if self._most is not None and len(self._full_at) > self._most:
                del self._full_at[next(iter(self._full_at))]
        return 0.0

    def give_back(self, user: str, now: float) -> None:
        """Undo one successful ``take``."""
        full_at = self._full_at.get(user, now) - self._interval
        if full_at > now:
            self._full_at[user] = full_at
        else:
            self._full_at.pop(user, None)

    def _forget(self, now: float) -> None:
        while self._full_at:
            user = next(iter(self._full_at))
            if self._full_at[user] > now:
                return
            del self._full_at[user]
