from __future__ import annotations

import pytest

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.spec.encryption import is_encrypted, supports_curve

LOOPBACK, ELSEWHERE, EVERYWHERE = "127.0.0.1", "192.0.2.1", "0.0.0.0"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"supported_encryption": ["curve"]}, True),
        ({"supported_encryption": ["rot13", " Curve "]}, True),
        ({"supported_encryption": "curve"}, True),
        ({"supported_encryption": "CURVE "}, True),
        ({"supported_encryption": "curves"}, False),
        ({"supported_encryption": ["rot13"]}, False),
        ({"supported_encryption": []}, False),
        ({"supported_encryption": None}, False),
        ({"supported_encryption": True}, False),
        ({"supported_encryption": {"curve": True}}, False),
        ({"supported_encryption": [None, ["curve"]]}, False),
        ({}, False),
    ],
)
def test_supports_curve(metadata, expected) -> None:
    assert supports_curve(metadata) is expected


@pytest.mark.parametrize(
    ("policy", "transport", "ip", "kernel_can", "expected"),
    [
        ("disabled", "tcp", LOOPBACK, True, False),
        ("disabled", "ipc", LOOPBACK, True, False),
        ("disabled", "tcp", ELSEWHERE, True, False),
        ("disabled", "tcp", ELSEWHERE, False, False),
        ("auto", "tcp", LOOPBACK, True, True),
        ("auto", "tcp", "127.1.2.3", False, False),
        ("auto", "tcp", LOOPBACK, False, False),
        ("auto", "ipc", LOOPBACK, True, False),
        ("auto", "tcp", ELSEWHERE, True, True),
        ("auto", "tcp", EVERYWHERE, True, True),
        ("required", "tcp", LOOPBACK, True, True),
        ("required", "ipc", LOOPBACK, True, True),
        ("required", "tcp", ELSEWHERE, True, True),
    ],
)
def test_decision(policy, transport, ip, kernel_can, expected) -> None:
    decision = is_encrypted(policy, transport=transport, ip=ip, kernel_can=kernel_can, we_can=True)
    assert decision is expected


@pytest.mark.parametrize(
    ("policy", "transport", "ip", "words"),
    [
        ("required", "tcp", LOOPBACK, "encryption='required'"),
        ("required", "ipc", LOOPBACK, "encryption='required'"),
        ("required", "tcp", ELSEWHERE, "encryption='required'"),
        ("auto", "tcp", ELSEWHERE, ELSEWHERE),
        ("auto", "tcp", EVERYWHERE, EVERYWHERE),
    ],
)
@pytest.mark.parametrize(
    ("able", "remedy"),
    [
        ({"kernel_can": False, "we_can": True}, "supported_encryption"),
        ({"kernel_can": False, "we_can": False}, "supported_encryption"),
        ({"kernel_can": True, "we_can": False}, "PyPI"),
    ],
)
def test_refusal_names_cause_and_remedy(policy, transport, ip, words, able, remedy) -> None:
    with pytest.raises(InvalidLaunchParameter) as caught:
        is_encrypted(policy, transport=transport, ip=ip, **able)
    assert words in str(caught.value)
    assert remedy in str(caught.value)
    assert "encryption='disabled'" in str(caught.value)


def test_auto_does_without_where_it_may() -> None:
    assert not is_encrypted("auto", transport="tcp", ip=LOOPBACK, kernel_can=True, we_can=False)
