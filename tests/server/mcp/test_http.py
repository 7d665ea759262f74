"""MCP of the server as a process, with real kernels, seen by the client of the package ``mcp``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ImageContent

from kernelproto.launch.process.confinement import sandbox_fault, users_fault
from kernelproto.server import hash_token

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="refused there"),
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.usefixtures("no_leaks"),
]

GUARD_SECONDS = 90
ROOT = Path(__file__).parents[3]

UVICORN = [sys.executable, "-m", "kernelproto.server"]
HYPERCORN_ON_TRIO = [sys.executable, "-m", "tests.integration.trio_server"]

FIGURE = """
import matplotlib.pyplot as plt
plt.plot([1, 2])
plt.show()
"""


class Running:
    """A server, and clients of it.

    Args:
        process: the process of the server.
        url: the URL of the server.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def http(self, user: str) -> httpx2.AsyncClient:
        # The server on uvicorn reads the first header, the one on hypercorn the second one.
        headers = {"authorization": f"Bearer {user}", "x-forwarded-user": user}
        return httpx2.AsyncClient(headers=headers, base_url=self.url, timeout=GUARD_SECONDS)

    @asynccontextmanager
    async def client(self, user: str, mode: str = "auto") -> AsyncGenerator[Client]:
        async with (
            self.http(user) as http,
            Client(
                streamable_http_client(f"{self.url}/mcp", http_client=http), mode=mode
            ) as client,
        ):
            yield client


def launch(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@asynccontextmanager
async def running(tmp_path: Path, command: list[str] = UVICORN) -> AsyncGenerator[Running]:
    """Run a server with the users ada and bob for the block; it must leave nothing behind."""
    tokens = tmp_path / "users.toml"
    tokens.touch(0o600)
    tokens.write_text(
        "".join(f'[{user}]\ntoken = "{hash_token(user)}"\n' for user in ("ada", "bob"))
    )
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    settings = {
        "mcp": "true",
        "kernel": "fork/kernel",
        "port": "0",
        "authentication": "file",
        "token_file": str(tokens),
        "trusted_proxies": "127.0.0.1",
        "max_per_user": "3",
        "grace_seconds": "0",
    }
    environment = {f"KERNELPROTO_{name.upper()}": value for name, value in settings.items()}
    environment["TMPDIR"] = str(temporary)
    with anyio.fail_after(GUARD_SECONDS), launch(command, environment) as process:
        try:
            assert process.stderr is not None
            line = await anyio.to_thread.run_sync(process.stderr.readline)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, process.stderr.read)
                try:
                    yield Running(process, line.split()[-1].rstrip("/"))
                    process.terminate()
                except BaseException:
                    process.kill()  # which ends the thread
                    raise
        finally:
            process.kill()
    if process.returncode != -signal.SIGKILL:
        assert os.listdir(temporary) == []


async def run(client: Client, code: str, **arguments):
    return await client.call_tool("run_code", {"code": code, **arguments})


async def text_of(client: Client, code: str, **arguments) -> str:
    return (await run(client, code, **arguments)).content[0].text


async def check_conversation(server: Running, client: Client, mode: str) -> None:
    image = (await run(client, FIGURE)).content[1]
    assert isinstance(image, ImageContent)
    assert image.data.startswith("iVBOR")
    await client.call_tool("upload", {"name": "data.csv", "content": "1,2"})
    assert await text_of(client, "open('data.csv').read()") == "'1,2'"
    file = await client.read_resource("file://default/data.csv")
    assert file.contents[0].text == "1,2"
    late = await text_of(client, "x = 1\nimport time; time.sleep(60)", timeout=0.5)
    assert late.endswith("are kept. A longer timeout may help")
    with anyio.move_on_after(1):
        await run(client, "while True: pass")
    assert await text_of(client, "x") == "1"
    async with server.client("bob", mode) as other:
        assert "NameError" in await text_of(other, "x")
        assert (await other.list_resources()).resources == []


async def check_disconnect(server: Running, client: Client) -> None:
    """Check that the code of a client that disconnects during its call is interrupted."""
    initialize = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    call = {
        "name": "run_code",
        "arguments": {"code": "print('begun')\nwhile True: pass"},
        "_meta": {"progressToken": 1},
    }
    headers = {"accept": "application/json, text/event-stream"}
    async with server.http("ada") as http:
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": initialize}
        response = await http.post("/mcp", json=message, headers=headers)
        headers["mcp-session-id"] = response.headers["mcp-session-id"]
        message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
        async with http.stream("POST", "/mcp", json=message, headers=headers) as stream:
            async for line in stream.aiter_lines():
                if "begun" in line:  # a report on the progress
                    break
    assert await text_of(client, "x") == "1"


async def check_wrong_token(server: Running) -> None:
    async with server.http("eve") as http:
        response = await http.post("/mcp", json={})
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(response.text)["message"].startswith("missing or unknown token")
    with pytest.RaisesGroup(MCPError, flatten_subgroups=True):
        async with server.client("eve"):
            pass


async def run_until(client: Client, end: Callable[[], None]):
    """Run code, and call a function as soon as the code runs; return the result."""

    async def wait_for_code() -> None:
        while (await client.call_tool("download", {"name": "begun"})).is_error:
            await anyio.lowlevel.checkpoint()
        end()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for_code)
        return await run(client, "open('begun', 'w').close()\nimport time; time.sleep(60)")


async def check_shutdown(server: Running, client: Client) -> None:
    """Check that a call learns why the server ends it."""
    result = await run_until(client, server.process.terminate)
    assert result.is_error
    assert result.content[0].text == "the server is shutting down: try again in a moment"
    assert server.process.wait(GUARD_SECONDS) == 0


async def check_sandbox(server: Running, tmp_path: Path) -> None:
    """Check that the code of a user does not see the files of another one."""
    async with server.client("bob") as client:
        code = f"import glob; glob.glob({str(tmp_path)!r} + '/**/data.csv', recursive=True)"
        assert await text_of(client, code) == "[]"


async def test_conversation_on_uvicorn(tmp_path: Path) -> None:
    command = UVICORN
    if sandbox_fault() is None:
        config = tmp_path / "server.toml"
        config.write_text("[mcp_sandbox]\nprocesses = 100\n")
        command = [*UVICORN, "--config", str(config)]
    async with running(tmp_path, command) as server, server.client("ada", "legacy") as client:
        await check_conversation(server, client, "legacy")
        await check_disconnect(server, client)
        await check_wrong_token(server)
        if command is not UVICORN:
            await check_sandbox(server, tmp_path)
        await check_shutdown(server, client)


async def test_conversation_on_trio(tmp_path: Path) -> None:
    async with running(tmp_path, HYPERCORN_ON_TRIO) as server, server.client("ada") as client:
        await check_conversation(server, client, "auto")


async def test_killed_server_ends_the_call(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.client("ada", "legacy") as client:
        with pytest.RaisesGroup(MCPError, flatten_subgroups=True):
            await run_until(client, server.process.kill)


# Prints facts about the kernel, and moves the conversations of the user away for a link.
ISOLATED = """
import os
print(os.getcwd(), os.getuid(), os.stat("in/data.csv").st_uid, open("in/data.csv").read())
"""
REPLACE = """
home = os.path.expanduser("~")
os.rename(f"{home}/conversations", f"{home}/away")
os.symlink(f"{os.path.dirname(home)}/bob/conversations", f"{home}/conversations")
os.path.exists(f"{home}/conversations/default")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run kernels as other users")
async def test_isolated_users_have_their_files(tmp_path: Path) -> None:
    if (fault := users_fault()) is not None:
        pytest.skip(fault)
    homes, config = tmp_path / "homes", tmp_path / "server.toml"
    config.write_text(
        f'isolate = "users"\n[isolation]\nuids = "2000000000-2000000009"\nfolder = "{homes}"\n'
        "[mcp_sandbox]\nprocesses = 100\n"
    )
    async with (
        running(tmp_path, [*UVICORN, "--config", str(config)]) as server,
        server.client("ada") as ada,
        server.client("bob") as bob,
    ):
        for number, (client, name) in enumerate(((ada, "ada"), (bob, "bob"))):
            uid, folder = 2_000_000_000 + number, homes / name / "conversations" / "default"
            await client.call_tool("upload", {"name": "in/data.csv", "content": f"of {name}"})
            told = await text_of(client, ISOLATED)
            assert told.strip() == f"{folder} {uid} {uid} of {name}"
            await run(client, "open('out.txt', 'w').write('made')")
            file = await client.read_resource("file://default/out.txt")
            assert file.contents[0].text == "made"
            listed = (await client.call_tool("list_files", {})).content[0].text
            assert "in/data.csv" in listed
            assert (folder / "in" / "data.csv").stat().st_uid == uid
        # Neither code nor tools of ada reach the files of bob through a link.
        assert await text_of(ada, REPLACE) == "False"
        for tool, arguments in (
            ("download", {"name": "in/data.csv"}),
            ("upload", {"name": "in/data.csv", "content": "of ada"}),
            ("list_files", {}),
            ("run_code", {"code": "open('in/data.csv').read()"}),
        ):
            result = await ada.call_tool(tool, arguments)
            assert result.is_error
            assert "bob" not in result.content[0].text
        downloaded = await bob.call_tool("download", {"name": "in/data.csv"})
        assert downloaded.content[0].text == "of bob"
    assert (homes / "bob" / "conversations" / "default" / "in" / "data.csv").exists()
