"""Login attempts: their limit, and their lines in the audit log."""

from __future__ import annotations

import logging

import anyio
import pytest

from kernelproto.exceptions import AuthenticatorUnavailable
from kernelproto.interfaces import User, UserRequest
from kernelproto.server import SingleUserToken
from kernelproto.server.auth import logins
from kernelproto.server.auth.authenticators import token_of
from kernelproto.server.auth.logins import Logins, TooManyLogins

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

BURST = 3


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(logins, "_BURST", BURST)


class Known:
    """Accepts some names as tokens, and counts the calls."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.asked = 0
        self.unavailable = False

    async def authenticate(self, request: UserRequest) -> User | None:
        self.asked += 1
        if self.unavailable:
            raise AuthenticatorUnavailable("it is away")
        token = token_of(request) or ""
        return User(token) if token in self.names else None


async def attempt(entries: Logins, token: str | None, address: str | None = "192.0.2.1") -> str:
    headers = {} if token is None else {"authorization": f"token {token}"}
    try:
        user = await entries.authenticate(UserRequest(headers=headers), address=address, path="/p")
    except TooManyLogins:
        return "wait"
    return "refused" if user is None else user.name


async def test_address_with_failed_attempts_must_wait(caplog) -> None:
    users = Known("ada", "bob")
    entries = Logins(users, per_minute=0.01)
    assert await attempt(entries, "ada") == "ada"
    with caplog.at_level(logging.INFO, "kernelproto.audit"):
        for number in range(BURST):
            assert await attempt(entries, f"wrong-{number}") == "refused"
        asked = users.asked
        assert await attempt(entries, "wrong") == "wait"
        assert await attempt(entries, "bob") == "wait"  # even a valid token
        assert users.asked == asked
        assert await attempt(entries, "ada") == "ada"  # a known user of the same address
        assert await attempt(entries, None) == "refused"  # no guess
        assert await attempt(entries, "bob", "192.0.2.2") == "bob"
        assert await attempt(entries, "bob") == "bob"  # now a known user
    assert [(r.levelname, r.audit["outcome"], r.audit.get("reason")) for r in caplog.records] == [
        *[("WARNING", "refused", "unknown token")] * BURST,
        ("WARNING", "refused", "too many failed attempts"),  # once
        ("INFO", "ok", None),
        ("INFO", "ok", None),  # the same user from another address
    ]
    assert "wrong" not in caplog.text
    assert caplog.messages[0] == (
        'event=login outcome=refused address=192.0.2.1 path=/p reason="unknown token"'
    )


async def test_users_who_log_in_are_not_limited() -> None:
    names = [f"user-{number}" for number in range(5 * BURST)]
    entries = Logins(Known(*names), per_minute=0.01)
    assert [await attempt(entries, name) for name in names] == names


async def test_attempts_at_the_same_time_are_limited_too() -> None:
    class Slow(Known):
        async def authenticate(self, request: UserRequest) -> User | None:
            self.asked += 1
            await release.wait()
            return None

    users, release = Slow(), anyio.Event()
    entries = Logins(users, per_minute=0.01)
    outcomes: list[str] = []

    async def guess(number: int) -> None:
        outcomes.append(await attempt(entries, f"wrong-{number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(guess, number)
        await anyio.wait_all_tasks_blocked()
        release.set()
    assert users.asked == BURST
    assert sorted(outcomes) == ["refused"] * BURST + ["wait"] * (10 - BURST)


async def test_attempts_count_while_the_authenticator_is_unavailable() -> None:
    users = Known("ada")
    entries = Logins(users, per_minute=0.01)
    assert await attempt(entries, "ada") == "ada"
    users.unavailable = True
    for number in range(BURST):
        with pytest.raises(AuthenticatorUnavailable):
            await attempt(entries, f"wrong-{number}")
    assert await attempt(entries, "wrong") == "wait"
    users.unavailable = False
    assert await attempt(entries, "ada") == "ada"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        (None, None, True),
    ],
)
async def test_networks_of_ipv6_are_limited_as_one(one, other, same: bool) -> None:
    entries = Logins(Known(), per_minute=0.01)
    for number in range(BURST):
        await attempt(entries, f"wrong-{number}", one)
    assert await attempt(entries, "wrong", one) == "wait"
    assert await attempt(entries, "wrong", other) == ("wait" if same else "refused")


async def test_no_limit() -> None:
    entries = Logins(Known(), per_minute=0)
    assert {await attempt(entries, f"wrong-{number}") for number in range(100)} == {"refused"}


async def test_tables_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(logins, "_MAX_REMEMBERED", 5)
    names = [f"user-{number}" for number in range(20)]
    entries = Logins(Known(*names), per_minute=0.01)
    for number, name in enumerate(names):
        address = f"192.0.2.{number}"
        await attempt(entries, name, address)
        for guess in range(BURST + 1):
            await attempt(entries, f"wrong-{guess}", address)
    tables = (entries._accepted, entries._waiting, entries._logged_in)
    assert [len(table._keys) for table in tables] == [5] * 3
    assert len(entries._failures) == 5


async def test_requests_and_websockets_must_wait(serving) -> None:
    async with serving({"failed_logins_per_minute": 0.01}) as server:
        kernel_id = await server.start("ada")
        async with server.client() as client:
            path = "/api/kernels?token=stranger"
            assert [(await client.get(path)).status_code for _ in range(BURST)] == [403] * BURST
            refused = await client.get(path)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            assert refused.headers["x-content-type-options"] == "nosniff"
            assert "from your address" in refused.json()["message"]
            assert (await client.get("/metrics?token=stranger")).status_code == 429
        async with server.connect("stranger", kernel_id) as socket:
            assert socket.refused == 429
        async with server.client("ada") as ada:
            assert (await ada.get("/api/kernels")).status_code == 200


async def test_metrics_token_cannot_be_guessed(serving) -> None:
    settings = {"failed_logins_per_minute": 0.01, "metrics_token": "m"}
    users = SingleUserToken("t")
    async with serving(settings, authenticator=users) as server, server.client() as client:
        assert (await client.get("/metrics?token=m")).status_code == 200
        for number in range(BURST):
            assert (await client.get(f"/metrics?token={number}")).status_code == 403
        for token, status in [("t", 429), ("4", 429), ("m", 200)]:
            assert (await client.get(f"/metrics?token={token}")).status_code == status
