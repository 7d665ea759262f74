"""Make no log records that no handler takes.

The logger of an ipykernel has a lower level than its handler, so it makes several records for each
request that the handler refuses. The levels of the handlers are read at each record, because users
may change them.
"""

from __future__ import annotations

import logging
from typing import Any

from .hook import Hook, Need


class QuietLogger(logging.Logger):
    """A logger that asks its handlers before it makes a record."""

    def isEnabledFor(self, level: int) -> bool:
        """Return whether the logger, and one of its handlers, takes records of a level."""
        if not super().isEnabledFor(level):
            return False
        if self.propagate or self.filters or not self.handlers:
            return True  # handlers of other loggers decide, or the filters have to see it
        return any(level >= handler.level for handler in self.handlers)


def be_quiet(application: Any) -> None:
    """Let the logger of the application ask its handlers."""
    if type(application.log) is logging.Logger:
        application.log.__class__ = QuietLogger


HOOK = Hook(
    name="logs",
    needs=[Need("logging:Logger.isEnabledFor", "self, level", "getEffectiveLevel")],
    install=be_quiet,
)
