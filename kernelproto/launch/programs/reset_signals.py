"""A program that resets inherited signals and then becomes another program.

A program inherits the signals that the parent blocks or ignores. A service that waits for signals
blocks them in all threads, and ``nohup`` or a shell's ``&`` makes a program ignore some. A kernel
that inherited this could be neither interrupted nor terminated. A thread of the parent must not
unblock them for a moment, because a signal for the service could arrive then and end the service.

Run as ``python -I -S reset_signals.py LC_CTYPE COMMAND...``. The program imports nothing of
kernelproto. LC_CTYPE is the value of this variable, which Python changes at the start; an empty
argument means that the variable is not set.
"""

from __future__ import annotations

import os
import signal
import sys

# Python ignores the first two in each of its processes, and subprocess restores them in children.
# A program that shall survive the end of the terminal ignores the third on purpose.
LEFT_ALONE = {
    getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGHUP") if hasattr(signal, name)
}


def is_needed() -> bool:
    """Return whether a program that this thread starts would block or ignore signals."""
    return bool(signal.pthread_sigmask(signal.SIG_BLOCK, []) or _ignored())


def reset_signals() -> None:
    """Unblock all signals, and stop ignoring them."""
    for signum in _ignored():
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def main(ctype: str, command: list[str]) -> None:
    """Run the command in the place of this program."""
    reset_signals()
    for signum in LEFT_ALONE - {signal.SIGHUP}:
        signal.signal(signum, signal.SIG_DFL)
    os.environ.pop("LC_CTYPE", None)
    if ctype:
        os.environ["LC_CTYPE"] = ctype
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]!r}: {error.strerror}")


def _ignored() -> list[int]:
    signals = signal.valid_signals() - LEFT_ALONE
    return [signum for signum in signals if signal.getsignal(signum) == signal.SIG_IGN]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
