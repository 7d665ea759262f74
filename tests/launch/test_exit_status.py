from __future__ import annotations

import pytest

from kernelproto.launch.exit_status import describe_exit


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exit status 0"),
        (3, "exit status 3"),
        (-9, "signal 9 (SIGKILL)"),
        (-250, "signal 250"),
        (None, "an unknown exit status"),
    ],
)
def test_describes(returncode: int | None, words: str) -> None:
    assert describe_exit(returncode) == words
