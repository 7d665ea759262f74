"""Error messages for users."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.exceptions import (
    ClientClosed,
    InvalidKernelSpec,
    KernelProtoError,
    LaunchError,
    NoSuchKernel,
    PoolError,
    PoolFull,
    QuotaExceeded,
)
from kernelproto.server.user_messages import MOST_REASON_BYTES, close_reason, user_message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PoolFull("raise max_kernels"), "all kernels of this server are in use: try again later"),
        (
            QuotaExceeded("raise max_per_user", limit=3),
            "you may have at most 3 kernels at the same time: shut one down first",
        ),
        (
            PoolError("'ada' has no kernel 'x': get() starts one"),
            "this kernel was shut down or replaced: reload the list of your kernels",
        ),
        (
            NoSuchKernel("pip install it", name="x" * 1000, available=["a", "b"]),
            f"no kernel type '{'x' * 100}': choose one of a, b",
        ),
        (
            NoSuchKernel("pip install it", name="x"),
            "no kernel type 'x': this server has no kernel types",
        ),
        (
            InvalidKernelSpec("/etc/kernel.json: 'argv'"),
            "this kernel type is broken: tell the administrator of this server",
        ),
        (
            ClientClosed("the kernel 'x' of 'ada' (y) was lost: get() starts one", ended="lost"),
            "this kernel died: start another one",
        ),
        (
            ClientClosed("it is gone: get() starts one", ended="culled"),
            "this kernel was idle for too long and was shut down: start another one",
        ),
        (ClientClosed("the kernel 'was lost' is busy"), "the kernel 'was lost' is busy"),
        (ClientClosed("it was moved", ended="moved"), "it was moved"),
        (ClientClosed("the kernel was shut down"), "the kernel was shut down"),
        (LaunchError("it does not start\nits output"), "it does not start"),
    ],
)
def test_message_names_the_next_step_of_the_user(error: KernelProtoError, message: str) -> None:
    assert user_message(error) == message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("too slow", "Too slow."),
        ("Too slow.\nmore", "Too slow."),
        (f"one. two: three; {'x' * 200}", "One. two: three."),
        (f"one. two. {'x' * 200}", "One. two."),
        (f"one {'x' * 200}", "One…"),
        ("x" * 200, f"X{'x' * 119}…"),
        ("ü" * 200, f"Ü{'ü' * 59}…"),
        ("", "."),
    ],
)
def test_close_reason_is_a_sentence_within_the_limit(text: str, reason: str) -> None:
    assert close_reason(text) == reason


@given(st.text(max_size=300))
def test_close_reason_of_any_text_is_within_the_limit(text: str) -> None:
    assert len(close_reason(text).encode()) <= MOST_REASON_BYTES
