from __future__ import annotations

import copy
import errno
import os
import pickle
import selectors
import sys
from contextlib import closing
from typing import Any

import pytest

from kernelproto.exceptions import KernelExitedEarly, LaunchError
from kernelproto.launch.failures import shortages_named
from kernelproto.shortage import TooFewDescriptors, require_descriptors, shortage


def system_error(number: int, *place: str) -> OSError:
    return OSError(number, os.strerror(number), *place)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (system_error(errno.EMFILE), "no file descriptors are left (open files: "),
        (system_error(errno.ENFILE), "no file descriptors are left on this machine"),
        (system_error(errno.ENOMEM), "no memory is left"),
        (MemoryError(), "no memory is left"),
        (system_error(errno.EAGAIN), "no more processes or threads can be started"),
        (RuntimeError("can't start new thread"), "no more processes or threads can be started"),
        (system_error(errno.ENOSPC, "/there"), "no space is left on the disk (/there)"),
        (system_error(errno.EDQUOT), "no space is left on the disk; "),
    ],
)
def test_shortage_is_named(error: Exception, words: str) -> None:
    assert str(shortage(error)).startswith(words)
    with pytest.raises(LaunchError, match="could not be started: ") as caught, shortages_named():
        raise KernelExitedEarly("cannot run 'python'") from error
    assert words in str(caught.value)
    assert not isinstance(caught.value, KernelExitedEarly)


class FullEpoll:
    """An epoll of a user who has used up fs.epoll.max_user_watches."""

    def register(self, fd: int, events: int) -> None:
        raise system_error(errno.ENOSPC)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no epoll")
def test_descriptor_that_cannot_be_watched_is_no_lack_of_disk_space() -> None:
    reader, writer = os.pipe()
    with closing(selectors.EpollSelector()) as selector:
        real, selector._selector = selector._selector, FullEpoll()
        try:
            match = r"sysctl fs\.epoll\.max_user_watches"
            with pytest.raises(LaunchError, match=match), shortages_named():
                selector.register(reader, selectors.EVENT_READ)
        finally:
            selector._selector = real
            os.close(reader)
            os.close(writer)


@pytest.mark.parametrize(
    ("number", "limit"),
    [(errno.ENOSPC, "max_user_watches"), (errno.EMFILE, "max_user_instances")],
)
def test_file_that_cannot_be_watched_is_no_lack_of_disk_space(number: int, limit: str) -> None:
    package: dict[str, Any] = {"__name__": "inotify_simple"}
    exec("def add_watch(error): raise error", package)
    with pytest.raises(LaunchError, match=rf"sysctl fs\.inotify\.{limit}"), shortages_named():
        package["add_watch"](system_error(number))
    assert "fs.inotify" not in str(shortage(system_error(number)))


@pytest.mark.parametrize(
    "error", [system_error(errno.ENOENT), ValueError("a"), RuntimeError("b"), LaunchError("c")]
)
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    assert shortage(error) is None
    with pytest.raises(type(error)) as caught, shortages_named():
        raise error
    assert caught.value is error


def test_too_few_descriptors() -> None:
    require_descriptors(10)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(
        TooFewDescriptors, match=r"too few .* where 1000000000 are needed"
    ) as caught:
        require_descriptors(1_000_000_000)
    assert os.listdir("/proc/self/fd") == before
    assert caught.value.errno == errno.EMFILE
    assert str(copy.copy(caught.value)) == str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
