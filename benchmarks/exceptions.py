"""The exceptions of samples that give no measurement."""

from __future__ import annotations


class Skipped(Exception):
    """Raised if a contender cannot take part; the message says why."""


class Overdue(Exception):
    """Raised if a sample was interrupted because it exceeded its time limit."""
