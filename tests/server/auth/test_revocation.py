"""The end of WebSockets and kernels when the access of a user is revoked."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.exceptions import AuthenticatorUnavailable, InvalidSettings
from kernelproto.interfaces import User, UserRequest
from kernelproto.server import Settings, Shared, TokenFile
from kernelproto.server.auth import revocation
from kernelproto.server.auth.authenticators import hash_token, token_of
from kernelproto.server.auth.revocation import Access

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture(autouse=True)
def asks_often(monkeypatch) -> None:
    monkeypatch.setattr(revocation, "RECHECK_SECONDS", 0.01)


class Revocable:
    """Accepts a name as its token until the token is revoked, and counts the calls."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.unavailable = False
        self.asked = 0

    async def authenticate(self, request: UserRequest) -> User | None:
        self.asked += 1
        if self.unavailable:
            raise AuthenticatorUnavailable("the hub is down")
        token = token_of(request)
        if token is None or token in self.revoked:
            return None
        return User(token.partition("-")[0], admin=token == "root")

    async def wait_until_asked(self) -> None:
        """Wait until the calls that are running now have ended."""
        before = self.asked
        while self.asked < before + 3:
            await checkpoint()


def write(path: Path, *users: str) -> Path:
    new = path.with_suffix(".new")
    new.write_text("".join(f"[{user}]\ntoken = '{hash_token(user)}'\n" for user in users))
    os.replace(new, path)
    return path


@pytest.mark.parametrize("shared", [False, True])
async def test_user_removed_from_the_token_file_loses_open_websockets(
    serving, tmp_path, shared: bool
) -> None:
    path = write(tmp_path / "users.toml", "ada", "bob")
    users = TokenFile(path)
    authenticator = Shared(users) if shared else users
    async with serving(authenticator=authenticator, max_per_user=2) as server:
        of_ada, of_bob = await server.start("ada"), await server.start("bob")
        async with (
            server.connect("ada", of_ada) as lost,
            server.connect("ada", of_ada) as lost_too,
            server.connect("bob", of_bob) as kept,
        ):
            write(path, "bob")
            for socket in (lost, lost_too):
                code, reason = await socket.receive_close()
                assert code == 4401
                assert reason.startswith("Your access has ended")
                assert len(reason.encode()) <= 123
            await kept.finish(await kept.execute("6 * 7"))
            assert kept.closed is None
        assert len(server.pool.kernels()) == 2  # they are kept


async def test_websocket_outlives_an_unavailable_authenticator(serving) -> None:
    users = Revocable()
    async with serving(authenticator=users) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            users.unavailable = True
            await users.wait_until_asked()
            await socket.finish(await socket.execute("6 * 7"))
            users.unavailable = False
            users.revoked.add("ada")
            assert (await socket.receive_close())[0] == 4401


async def test_token_that_changes_its_user_counts_as_revoked(serving) -> None:
    class Renaming(Revocable):
        name = "ada"

        async def authenticate(self, request: UserRequest) -> User | None:
            return User(self.name)

    users = Renaming()
    async with serving(authenticator=users) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            users.name = "eve"
            assert (await socket.receive_close())[0] == 4401


async def test_kernels_of_a_user_end_with_the_last_token(serving) -> None:
    users = Revocable()
    settings = {"revoked_kernels": "shutdown"}
    async with serving(settings, authenticator=users, max_per_user=2) as server:
        for _ in range(2):
            await server.start("ada-1")
        kernel_id = await server.start("bob")
        async with server.client("ada-2") as client:
            assert len((await client.get("/api/kernels")).json()) == 2
        users.revoked.add("ada-2")
        await users.wait_until_asked()
        assert len(server.pool.kernels("ada")) == 2
        users.revoked.add("ada-1")
        while server.pool.kernels("ada"):
            await checkpoint()
        assert [kernel.kernel_id for kernel in server.pool.kernels()] == [kernel_id]


async def test_remembered_requests_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(revocation, "_MAX_USERS", 3)
    monkeypatch.setattr(revocation, "_MAX_TOKENS", 2)
    users = Revocable()
    remembered = Access(users)
    for name in "abcd":
        for number in range(4):
            request = UserRequest(query={"token": f"{name}-{number}"})
            remembered.note(User(name), request)
    assert {name: list(tokens) for name, tokens in remembered._requests.items()} == {
        name: [f"{name}-2", f"{name}-3"] for name in "bcd"
    }
    users.revoked.update({"b-2", "b-3"})
    with anyio.move_on_after(0.05) as waiting:  # a dropped user does not count as revoked
        await remembered.wait_until_user_revoked(User("a"))
    assert waiting.cancelled_caught
    for _ in range(2):  # also for the second kernel of the same user
        await remembered.wait_until_user_revoked(User("b"))


def test_shared_kernels_cannot_be_shut_down_by_a_revocation() -> None:
    with pytest.raises(InvalidSettings, match="revoked_kernels"):
        Settings(multi_user=False, revoked_kernels="shutdown")
