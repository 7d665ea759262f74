"""The states of a kernel, and the events that change them; see ``lifecycle.py``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Life(StrEnum):
    """The state of a kernel, across all its processes."""

    STARTING = "starting"
    READY = "ready"
    UNREACHABLE = "unreachable"
    RESTARTING = "restarting"
    DEAD = "dead"
    OVER = "over"


class LifeEvent(StrEnum):
    """An event that may change the state.

    READY: a process is ready. UNREACHABLE: the connection to the process is lost. REACHABLE: the
    connection is back. DIED: the process has ended by itself. RESTART: a caller or a supervisor
    begins a restart. FAILED: the restart failed. END: a caller ends the kernel for good.
    """

    READY = "ready"
    UNREACHABLE = "unreachable"
    REACHABLE = "reachable"
    DIED = "died"
    RESTART = "restart"
    FAILED = "failed"
    END = "end"


# A restart ends the old process: if the process dies first, the restart just goes on. A kernel that
# is over stays over, even if its last process becomes ready or dies before the end. In both states
# the connection to the old process makes no difference.
LIFE: Mapping[Life, Mapping[LifeEvent, Life]] = {
    Life.STARTING: {LifeEvent.READY: Life.READY},
    Life.READY: {
        LifeEvent.UNREACHABLE: Life.UNREACHABLE,
        LifeEvent.DIED: Life.DEAD,
        LifeEvent.RESTART: Life.RESTARTING,
        LifeEvent.END: Life.OVER,
    },
    Life.UNREACHABLE: {
        LifeEvent.REACHABLE: Life.READY,
        LifeEvent.DIED: Life.DEAD,
        LifeEvent.RESTART: Life.RESTARTING,
        LifeEvent.END: Life.OVER,
    },
    Life.RESTARTING: {
        LifeEvent.READY: Life.READY,
        LifeEvent.UNREACHABLE: Life.RESTARTING,
        LifeEvent.REACHABLE: Life.RESTARTING,
        LifeEvent.DIED: Life.RESTARTING,
        LifeEvent.FAILED: Life.DEAD,
        LifeEvent.END: Life.OVER,
    },
    Life.DEAD: {LifeEvent.RESTART: Life.RESTARTING, LifeEvent.END: Life.OVER},
    Life.OVER: {
        LifeEvent.READY: Life.OVER,
        LifeEvent.UNREACHABLE: Life.OVER,
        LifeEvent.REACHABLE: Life.OVER,
        LifeEvent.DIED: Life.OVER,
        LifeEvent.FAILED: Life.OVER,
        LifeEvent.END: Life.OVER,
    },
}


def next_life(life: Life, event: LifeEvent) -> Life:
    """Return the state that *event* leads to.

    Raises:
        RuntimeError: *event* cannot happen in this state, which is a bug of the caller.
    """
    try:
        return LIFE[life][event]
    except KeyError:
        raise RuntimeError(f"{event.name} cannot happen to a kernel that is {life}") from None
