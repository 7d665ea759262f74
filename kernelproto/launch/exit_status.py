"""Exit statuses in words."""

from __future__ import annotations

import signal


def describe_exit(returncode: int | None) -> str:
    """Return *returncode* in words, for example "exit status 1" or "signal 9 (SIGKILL)"."""
    if returncode is None:
        return "an unknown exit status"
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {-returncode} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"signal {-returncode}"
