"""RateLimit: a token bucket for each user. Pure.

A bucket is stored as one number, the time when the bucket will be full again. A full bucket is not
stored.
"""

from __future__ import annotations

from collections import OrderedDict

# Seconds. A rounding error in the sum of many intervals must not refuse an action.
_SLACK = 1e-6


class RateLimit:
    """Limits how often each user performs an action.

    The size is the number of users with a recent action: within the time in which an empty bucket
    fills.

    Args:
        per_minute: the average number of actions per minute; 0 for no limit.
        burst: the number of actions at once, 1 or more.
        most: the largest number of stored buckets; at the limit, the bucket that was used longest
            ago is dropped. None for no limit.
    """

    def __init__(self, *, per_minute: float, burst: int, most: int | None = None) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._capacity = burst * self._interval
        self._most = most
        # In the order of last use, so a full bucket may be behind one that is not full.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of stored buckets."""
        return len(self._full_at)

    def take(self, user: str, now: float) -> float:
        """Count an action of a user, if the limit allows it.

        Args:
            user: the key of the bucket.
            now: the time in seconds, from a monotonic clock.

        Returns:
            0 if the action is allowed; otherwise the seconds until then, and nothing is counted.
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
                self._full_at.popitem(last=False)
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
