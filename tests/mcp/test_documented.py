"""The configurations of clients in the documentation, used by the client of the package ``mcp``.

Claude Desktop and VS Code themselves do not run here. Only the paths, the address and the token of
the page are replaced, as a user replaces them; everything else is used as it is documented.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests.cli.conftest import environment
from tests.server.mcp.test_http import running

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="refused there"),
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"]),
    pytest.mark.usefixtures("no_leaks"),
]

GUARD_SECONDS = 60
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "mcp.md"
SCRIPT = Path(sys.executable).parent / "kernelproto"
URL = "https://kernels.example.org/mcp"


def documented(key: str) -> list[dict[str, Any]]:
    """Return the servers in the configurations that have a key."""
    blocks = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    found = [json.loads(block)[key] for block in blocks if key in json.loads(block)]
    assert all(list(servers) == ["kernels"] for servers in found)
    return [servers["kernels"] for servers in found]


def stdio_of(config: Mapping[str, Any], folder: Path) -> StdioServerParameters:
    """Return the server that a client starts for a configuration."""
    assert set(config) <= {"type", "command", "args"}
    assert config.get("type", "stdio") == "stdio"
    assert config["command"] == "/path/to/venv/bin/kernelproto"
    arguments = [word.replace("${workspaceFolder}", str(folder)) for word in config["args"]]
    # A client gives few variables to a server. TMPDIR keeps the files of the test together.
    env = environment(TMPDIR=str(folder))
    return StdioServerParameters(command=str(SCRIPT), args=arguments, env=env)


async def check(client: Client) -> None:
    result = await client.call_tool("run_code", {"code": "6 * 7"})
    assert result.content[0].text == "42"


async def check_stdio(config: Mapping[str, Any], folder: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(stdio_client(stdio_of(config, folder))) as client:
            await check(client)


@pytest.mark.skipif(not SCRIPT.exists(), reason="the command is not installed as a script")
async def test_claude_desktop_starts_the_server(tmp_path: Path) -> None:
    await check_stdio(documented("mcpServers")[0], tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not SCRIPT.exists(), reason="the command is not installed as a script")
async def test_vs_code_starts_the_server(tmp_path: Path) -> None:
    await check_stdio(documented("servers")[0], tmp_path)
    assert os.listdir(tmp_path) == ["conversations"]
    assert os.listdir(tmp_path / "conversations") == ["default"]


async def test_both_connect_to_a_server_for_many_users(tmp_path: Path) -> None:
    bridge, direct = documented("mcpServers")[1], documented("servers")[1]
    assert (direct["type"], direct["url"]) == ("http", URL)
    headers = {k: v.replace("${input:token}", "ada") for k, v in direct["headers"].items()}
    # The bridge mcp-remote needs Node.js: here only its arguments are used.
    program, address, option, header = bridge["args"]
    assert (bridge["command"], program, address, option) == ("npx", "mcp-remote", URL, "--header")
    for name, value in bridge["env"].items():
        header = header.replace(f"${{{name}}}", value)
    name, _, value = header.partition(":")
    async with running(tmp_path) as server:
        for given in (headers, {name: value.replace("TOKEN", "ada")}):
            async with (
                httpx2.AsyncClient(headers=given, timeout=GUARD_SECONDS) as http,
                Client(streamable_http_client(f"{server.url}/mcp", http_client=http)) as client,
            ):
                await check(client)
