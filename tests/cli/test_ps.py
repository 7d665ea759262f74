from __future__ import annotations

import pytest

from kernelproto.cli.ps import format_age, format_kernels, short_ids
from kernelproto.launch.process.process_id import Machine, ProcessId
from tests.cli.test_stop import kernel


def test_table() -> None:
    process = ProcessId(4321, "", Machine("", "", ""))
    kernels = [
        kernel("0123456789", state="dead", kernel_type=""),
        kernel("abcdefghij", process=process, memory=2**26),
    ]
    assert format_kernels(kernels, 1061.5, None, "utf-8") == [
        "ID        KERNEL TYPE   PID  STATE    AGE  MEMORY  OWNER",
        "01234567  ?               ?  dead   1m 1s       ?  another program",
        "abcdefgh  python3      4321  alive  1m 1s  64 MiB  another program",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (59.9, "59s"), (60, "1m 0s"), (3661, "1h 1m"), (90000, "1d 1h")],
)
def test_age(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


def test_short_ids_are_unique() -> None:
    assert short_ids(["0123456789", "0123456780"]) == {
        "0123456789": "0123456789",
        "0123456780": "0123456780",
    }
    assert short_ids(["0123456789", "a"]) == {"0123456789": "01234567", "a": "a"}
