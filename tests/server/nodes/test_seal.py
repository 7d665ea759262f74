"""The header of a forwarded request, and the parts of the request that it covers."""

from __future__ import annotations

import pytest

from kernelproto.interfaces import User
from kernelproto.server.nodes.requests import forwarded_headers, target_of
from kernelproto.server.nodes.seal import (
    HEADER,
    LONGEST_SECONDS,
    Assertion,
    SealExpired,
    seal,
    unseal,
)

ASSERTION = Assertion(
    user=User("ada", admin=True, groups=frozenset({"staff"})), peer="10.0.0.1", address="::1"
)
NOW = 1_700_000_000.0
REQUEST = {
    "now": NOW,
    "secret": "s",
    "node": "http://a",
    "method": "GET",
    "target": "/api/kernels/k?x=1",
}


def test_user_and_address_arrive() -> None:
    assert unseal(seal(ASSERTION, **REQUEST), **REQUEST) == ASSERTION


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": "t"},
        {"node": "http://b"},
        {"method": "DELETE"},
        {"target": "/api/kernels/k"},
        {"node": "http://a\nGET", "method": ""},
    ],
)
def test_seal_is_for_one_request(changes: dict[str, str]) -> None:
    assert unseal(seal(ASSERTION, **REQUEST), **REQUEST | changes) is None


@pytest.mark.parametrize("age", [LONGEST_SECONDS, -LONGEST_SECONDS, 1e9])
def test_replayed_header_is_refused(age: float) -> None:
    value = seal(ASSERTION, **REQUEST)
    with pytest.raises(SealExpired) as caught:
        unseal(value, **REQUEST | {"now": NOW + age})
    assert caught.value.seconds == age
    assert unseal(value, **REQUEST | {"now": NOW + age, "secret": "t"}) is None
    for difference in (LONGEST_SECONDS - 1, 1 - LONGEST_SECONDS):  # of two clocks
        assert unseal(value, **REQUEST | {"now": NOW + difference}) == ASSERTION


@pytest.mark.parametrize("value", ["", ".", "x.y", "\xe9", "é.é"])
def test_value_that_is_no_seal(value: str) -> None:
    assert unseal(value, **REQUEST) is None


def test_changed_user_is_refused() -> None:
    text, _, code = seal(ASSERTION, **REQUEST).partition(".")
    other, _, _ = seal(Assertion(user=User("eve")), **REQUEST).partition(".")
    assert unseal(f"{other}.{code}", **REQUEST) is None
    assert unseal(f"{text}.{code}", **REQUEST) == ASSERTION


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ({"path": "/api/kernels/k"}, "/api/kernels/k"),
        ({"path": "/api/a b", "raw_path": b"/api/a%20b"}, "/api/a%20b"),
        ({"path": "/api/a b"}, "/api/a%20b"),
        ({"path": "/x/api", "raw_path": b"/x/api", "root_path": "/x"}, "/api"),
        ({"path": "/x y/api", "raw_path": b"/x%20y/api", "root_path": "/x y"}, "/api"),
        ({"path": "/api", "query_string": b"a=%2F"}, "/api?a=%2F"),
    ],
)
def test_target(scope: dict[str, object], target: str) -> None:
    assert target_of(scope) == target


def test_headers_of_one_connection_stay() -> None:
    headers = [
        (b"Authorization", b"token t"),
        (b"Connection", b"upgrade"),
        (b"Sec-WebSocket-Key", b"k"),
        (b"Origin", b"http://a"),
        (HEADER.encode(), b"x"),
        (b"cookie", b"c"),
    ]
    assert forwarded_headers(headers) == [(b"Authorization", b"token t"), (b"cookie", b"c")]
