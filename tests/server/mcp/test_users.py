"""MCP in the application, over kernels that are no processes, with the client of ``mcp``."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from kernelproto import InvalidSettings, KernelFinder, KernelPool
from kernelproto.interfaces import User, UserRequest
from kernelproto.server import Settings, create_app
from kernelproto.server.mcp import users as mcp_users
from kernelproto.testing import Exchange, FakeKernel, FakeProvider
from tests.server.conftest import BASE, ByName, Opened, Server, prepare

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Tools:
    """The tools of the server, for one user."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, tool: str, **arguments: Any) -> str:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result
        return result.content[0].text

    async def failure(self, tool: str, **arguments: Any) -> str:
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result
        return result.content[0].text

    async def run(self, code: str, **arguments: Any) -> str:
        return await self("run_code", code=code, **arguments)


class Known(ByName):
    """Takes a token for a user name, while the name is known."""

    def __init__(self) -> None:
        self.names = {"ada"}

    async def authenticate(self, request: UserRequest) -> User | None:
        user = await super().authenticate(request)
        return user if user is not None and user.name in self.names else None


ServingMcp = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture
def serving_mcp(serving: Opened) -> ServingMcp:
    """Return a function that serves MCP; it takes settings."""

    @asynccontextmanager
    async def serving_mcp(**settings: Any) -> AsyncGenerator[Server]:
        options = {
            name: settings.pop(name) for name in ("authenticator", "prepare") if name in settings
        }
        async with (
            serving({"mcp": True, **settings}, **options) as server,
            server.app.router.lifespan_context(server.app),
        ):
            yield server

    return serving_mcp


def http_client(server: Server, user: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=server.app),
        base_url=BASE,
        headers={"authorization": f"Bearer {user}"},
    )


@asynccontextmanager
async def tools_of(server: Server, user: str) -> AsyncGenerator[Tools]:
    async with (
        http_client(server, user) as http,
        Client(streamable_http_client(f"{BASE}/mcp", http_client=http)) as client,
    ):
        yield Tools(client)


async def test_users_are_apart(serving_mcp: ServingMcp) -> None:
    async with (
        serving_mcp() as server,
        tools_of(server, "ada") as ada,
        tools_of(server, "bob") as bob,
    ):
        assert await ada.run("6 * 7") == "42"
        await ada("upload", name="secret.txt", content="of ada")
        assert "no conversation 'default'" in await bob.failure("download", name="secret.txt")
        assert (await bob.client.list_resources()).resources == []
        await bob("upload", name="secret.txt", content="of bob")
        assert await bob("download", name="secret.txt") == "of bob"
        assert await ada("download", name="secret.txt") == "of ada"
        assert [kernel.user for kernel in server.pool.kernels()] == ["ada"]
        async with tools_of(server, "ada") as again:  # another client of the same user
            assert await again("download", name="secret.txt") == "of ada"


async def test_kernel_counts_among_those_of_its_user(serving_mcp: ServingMcp) -> None:
    async with serving_mcp() as server, tools_of(server, "ada") as ada:
        await server.start("ada")
        assert "you may have at most 1 kernel" in await ada.failure("run_code", code="6 * 7")
        assert len(server.pool.kernels()) == 1


async def test_conversation_takes_the_kernel_of_an_idle_one(serving_mcp: ServingMcp) -> None:
    async with serving_mcp() as server, tools_of(server, "ada") as ada:
        await ada.run("6 * 7")
        assert await ada.run("6 * 7", conversation="other") == "42"
        assert len(server.pool.kernels()) == 1
        text = await ada.run("6 * 7")
        assert text.startswith("[note: the kernel was shut down: all variables are lost")


async def test_running_code_keeps_its_kernel(serving_mcp: ServingMcp) -> None:
    async with (
        serving_mcp() as server,
        tools_of(server, "ada") as ada,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(ada.client.call_tool, "run_code", {"code": "work"}))
        while [kernel.state for kernel in server.pool.kernels()] != ["busy"]:
            await anyio.lowlevel.checkpoint()
        text = await ada.failure("run_code", code="6 * 7", conversation="other")
        assert text.startswith("you may have at most 1 kernel")
        await ada("interrupt")


def prepare_deaf(fake: FakeKernel) -> None:
    prepare(fake)

    async def ignore(exchange: Exchange) -> None:
        with anyio.CancelScope(shield=True):
            await fake.wait()

    fake.on_execute("ignore", ignore)


@ONE_LOOP
async def test_code_that_ignores_its_end_costs_the_kernel(
    serving_mcp: ServingMcp, monkeypatch
) -> None:
    monkeypatch.setattr("kernelproto.mcp.conversations._STOP_SECONDS", 0.05)
    async with serving_mcp(prepare=prepare_deaf) as server, tools_of(server, "ada") as ada:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ada.run, "ignore")
            while [kernel.state for kernel in server.pool.kernels()] != ["busy"]:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        text = await ada.run("6 * 7")
        assert text.startswith("[note: the code of a cancelled call ignored its interrupt, so the")
        assert text.endswith("\n42")
        assert server.pool.counts["restarted"] == 1


@ONE_LOOP
async def test_requests_of_a_user_are_limited(serving_mcp: ServingMcp, monkeypatch) -> None:
    monkeypatch.setattr(mcp_users, "_MOST_REQUESTS", 0)
    async with serving_mcp() as server, http_client(server, "ada") as http:
        assert (await http.post("/mcp", json={})).status_code == 429


@ONE_LOOP
async def test_starts_are_limited_as_over_rest(serving_mcp: ServingMcp) -> None:
    async with (
        serving_mcp(starts_per_minute=1, start_burst=1, mcp_kernels=["kernel"]) as server,
        tools_of(server, "ada") as ada,
    ):
        await ada.run("6 * 7")
        await ada("reset")
        text = await ada.failure("run_code", code="6 * 7")
        assert text.startswith("you have started too many kernels in a short time")


async def test_running_call_is_told_that_the_server_ends(serving_mcp: ServingMcp) -> None:
    async with serving_mcp() as server, tools_of(server, "ada") as ada:

        async def end() -> None:
            while [kernel.state for kernel in server.pool.kernels()] != ["busy"]:
                await anyio.lowlevel.checkpoint()
            await server.app.state.drain.run(server.pool, grace=0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            text = await ada.failure("run_code", code="work")
        assert text == "the server is shutting down: try again in a moment"
        async with http_client(server, "ada") as http:
            assert (await http.post("/mcp", json={})).status_code == 503


@ONE_LOOP
async def test_revoked_access_ends_the_running_call(serving_mcp: ServingMcp, monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.server.auth.revocation.RECHECK_SECONDS", 0.01)
    known = Known()
    async with serving_mcp(authenticator=known) as server, tools_of(server, "ada") as ada:

        async def revoke() -> None:
            while [kernel.state for kernel in server.pool.kernels()] != ["busy"]:
                await anyio.lowlevel.checkpoint()
            known.names.clear()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(revoke)
            with pytest.raises(MCPError):
                await ada.run("work")
        while [kernel.state for kernel in server.pool.kernels()] != ["idle"]:
            await anyio.lowlevel.checkpoint()


async def test_end_of_the_lifespan_ends_kernels_and_files(
    serving_mcp: ServingMcp, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with serving_mcp() as server:
        async with tools_of(server, "ada") as ada:
            await ada.run("6 * 7")
            await ada("upload", name="a", content="")
        assert len(os.listdir(tmp_path)) == 1
        assert len(server.pool.kernels()) == 1
    assert server.pool.counts["released"] == 1
    assert os.listdir(tmp_path) == []


@ONE_LOOP
async def test_files_in_mcp_dir_stay(serving_mcp: ServingMcp, tmp_path: Path) -> None:
    for _ in range(2):
        async with serving_mcp(mcp_dir=str(tmp_path)) as server:
            for name in ("ada", "Ada"):
                async with tools_of(server, name) as user:
                    await user("upload", name=name, content="")
    found = {name: os.listdir(tmp_path / name / "default") for name in os.listdir(tmp_path)}
    assert sorted(found.values()) == [["Ada"], ["ada"]]
    assert all(name.startswith("ada-") for name in found)


@ONE_LOOP
async def test_user_without_conversation_ends(serving_mcp: ServingMcp, monkeypatch) -> None:
    monkeypatch.setattr(mcp_users, "_SESSION_SECONDS", 0.01)
    monkeypatch.setattr(mcp_users, "_EXAMINE_SECONDS", 0.01)
    async with serving_mcp(mcp_expires=0.05) as server:
        users = server.app.state.mcp
        async with tools_of(server, "ada") as ada:
            await ada.run("6 * 7")
            while len(users):
                await anyio.lowlevel.checkpoint()
            assert server.pool.kernels() == []
            assert await ada.run("6 * 7") == "42"


@ONE_LOOP
@pytest.mark.parametrize(
    ("user", "headers", "status"),
    [
        ("stranger", {}, 401),
        ("ada", {"origin": "http://evil.example"}, 403),
        ("ada", {"origin": BASE}, 406),
    ],
)
async def test_strangers_and_foreign_pages_are_refused(
    serving_mcp: ServingMcp, user: str, headers: dict[str, str], status: int
) -> None:
    async with serving_mcp() as server, http_client(server, user) as http:
        response = await http.post("/mcp", json={}, headers={"accept": "text/plain", **headers})
        assert response.status_code == status, response.text
        assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


@ONE_LOOP
async def test_session_belongs_to_its_user(serving_mcp: ServingMcp) -> None:
    initialize = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    accept = {"accept": "application/json, text/event-stream"}
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    async with (
        serving_mcp() as server,
        http_client(server, "ada") as ada,
        http_client(server, "bob") as bob,
    ):
        opened = await ada.post("/mcp", json=initialize, headers=accept)
        session = {"mcp-session-id": opened.headers["mcp-session-id"], **accept}
        assert (await ada.post("/mcp", json=ping, headers=session)).status_code == 200
        assert (await bob.post("/mcp", json=ping, headers=session)).status_code == 404
        assert (await bob.delete("/mcp", headers=session)).status_code == 404
        assert (await ada.delete("/mcp", headers=session)).status_code == 200
        assert (await ada.post("/mcp", json=ping, headers=session)).status_code == 404


@ONE_LOOP
async def test_large_body_is_refused(serving_mcp: ServingMcp) -> None:
    async with serving_mcp(max_body_bytes=100) as server, http_client(server, "ada") as http:
        response = await http.post("/mcp", content=json.dumps("x" * 100))
        assert response.status_code == 413


@ONE_LOOP
async def test_application_without_its_lifespan_refuses(serving: Opened) -> None:
    async with serving({"mcp": True}) as server, http_client(server, "ada") as http:
        response = await http.post("/mcp", json={})
        assert (response.status_code, "lifespan" in response.text) == (503, True)


@ONE_LOOP
async def test_without_the_setting_there_is_no_mcp(serving: Opened) -> None:
    async with serving() as server, http_client(server, "ada") as http:
        assert (await http.post("/mcp", json={})).status_code == 404


@ONE_LOOP
@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"mcp_kernels": ["fake/other"]}, "mcp_kernels: no kernel type 'fake/other'"),
        ({"mcp_dir": "/dev/null/folder"}, "mcp_dir: "),
    ],
)
async def test_unusable_setting_is_refused(settings: dict[str, Any], fault: str) -> None:
    async with FakeProvider() as provider:
        finder = KernelFinder([provider])
        async with KernelPool(finder=finder) as pool:
            app = create_app(
                pool,
                finder=finder,
                authenticator=ByName(),
                settings=Settings(kernel="fake/kernel", mcp=True, **settings),
            )
            with pytest.raises(InvalidSettings, match=fault):
                async with app.router.lifespan_context(app):
                    pass
