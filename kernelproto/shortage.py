"""Shortages: errors because file descriptors, processes, memory or disk space have run out."""

from __future__ import annotations

import errno
import os
import sys
from traceback import walk_tb

if sys.platform != "win32":
    import resource

_OF_DISK = {errno.ENOSPC, errno.EDQUOT}

# These numbers have another meaning in calls of epoll and inotify: the limits that sysctl sets. The
# parts of the names of the modules that make these calls, with the limits by number.
_WATCHES = (
    "no more {} can be watched by this user; end some programs, or raise the limit with sysctl {}"
)
_OF_MODULES = (
    (
        ("selectors", "trio._core._io_epoll"),
        {errno.ENOSPC: _WATCHES.format("file descriptors", "fs.epoll.max_user_watches")},
    ),
    (
        ("inotify",),
        {
            errno.ENOSPC: _WATCHES.format("files", "fs.inotify.max_user_watches"),
            errno.EMFILE: (
                "no more files can be watched by this program or user; end some programs, or raise "
                "the limits with sysctl fs.inotify.max_user_instances and ulimit -n"
            ),
        },
    ),
)
_OF_MEMORY = {errno.ENOMEM, errno.ENOBUFS}


def shortage(error: BaseException | None) -> str | None:
    """Describe the shortage that caused an error, and the remedy; None for other causes.

    Args:
        error: the error of an operation that starts processes or opens files, or an error caused by
            one.
    """
    while error is not None:
        number: object = getattr(error, "errno", None)
        if isinstance(error, TooFewDescriptors):
            return error.words
        if (words := _of_watches(error, number)) is not None:
            return words
        if number == errno.EMFILE:
            return _too_few_descriptors("no file descriptors are left", _most_open_files())
        if number == errno.ENFILE:
            return (
                "no file descriptors are left on this machine; end some programs, or raise the "
                "limit with sysctl fs.file-max"
            )
        if number in _OF_MEMORY or isinstance(error, MemoryError):
            return "no memory is left on this machine, or for this program; end some programs"
        if number in _OF_DISK:
            place = getattr(error, "filename", None)
            where = f" ({os.fsdecode(place)})" if isinstance(place, str | bytes) else ""
            return f"no space is left on the disk{where}; remove some files, or use another disk"
        if number == errno.EAGAIN or (
            isinstance(error, RuntimeError) and "start new thread" in str(error)
        ):
            return (
                "no more processes or threads can be started; end some, or raise the limit with "
                "ulimit -u"
            )
        error = error.__cause__
    return None


def _of_watches(error: BaseException, number: object) -> str | None:
    """Describe a lack of watches; None if no call of epoll or inotify has raised the error."""
    for frame, _ in walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        for names, limits in _OF_MODULES:
            is_of_module = any(name in module for name in names)
            if isinstance(number, int) and number in limits and is_of_module:
                return limits[number]
    return None


class TooFewDescriptors(OSError):
    """The program has too few file descriptors left for an operation, which was not begun.

    Args:
        free: the number of descriptors left.
        needed: the number of descriptors that the operation takes.
    """

    def __init__(self, free: int, needed: int) -> None:
        self.words = _too_few_descriptors(
            f"too few file descriptors are left, {free} where {needed} are needed",
            _most_open_files() - free,
        )
        super().__init__(errno.EMFILE, self.words)

    def __reduce__(self) -> tuple[object, ...]:
        return OSError, (errno.EMFILE, self.words)


def require_descriptors(needed: int) -> None:
    """Check that this program can open *needed* more files; other threads may take them afterwards.

    Raises:
        TooFewDescriptors: too few file descriptors are left.
    """
    if sys.platform == "win32":
        return
    descriptors: list[int] = []
    try:
        while len(descriptors) < needed:
            descriptors += os.pipe()
    except OSError:
        raise TooFewDescriptors(len(descriptors), needed) from None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _most_open_files() -> int:
    return 0 if sys.platform == "win32" else resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _too_few_descriptors(news: str, used: int) -> str:
    return (
        f"{news} (open files: {used:,} of {_most_open_files():,} in use); close some, or raise the "
        "limit with ulimit -n"
    )
