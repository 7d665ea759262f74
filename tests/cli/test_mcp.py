"""The server as a process, seen by the client of the package ``mcp``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import ImageContent

from kernelproto.launch.process.confinement import sandbox_fault
from tests.cli.conftest import PROGRAM, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="refused there")

GUARD_SECONDS = 60
NO_SANDBOX = sandbox_fault()

FIGURE = """
import matplotlib.pyplot as plt
plt.plot([1, 2])
plt.show()
"""

# Writes to descriptor 1, in the server's children as well, must not reach the client.
NOISE = "import os; os.system('echo noise'); os.write(1, b'noise')"

# Code in a sandbox can use uploaded files, and the client its files.
COPY = """
import os, shutil
os.mkdir("out")
shutil.copy("in/data.csv", "out")
open("out/data.csv").read()
"""

# The server is the parent of the fork server, which is the parent of the kernel.
KILL = """
import os, psutil, time
os.kill(psutil.Process(os.getppid()).ppid(), 9)
time.sleep(600)
"""


def left(folder: Path) -> list[str]:
    return os.listdir(folder)


@asynccontextmanager
async def connected(tmp_path: Path, *options: str) -> AsyncGenerator[Client]:
    command, *words = PROGRAM
    env = environment(TMPDIR=str(tmp_path))
    server = StdioServerParameters(command=command, args=[*words, "mcp", *options], env=env)
    with anyio.fail_after(GUARD_SECONDS):
        async with Client(stdio_client(server)) as client:
            yield client


async def run(client: Client, code: str, **arguments):
    return await client.call_tool("run_code", {"code": code, **arguments})


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.usefixtures("no_leaks")
async def test_conversation_over_stdio(tmp_path: Path) -> None:
    async with connected(tmp_path, "--timeout", "30") as client:
        image = (await run(client, FIGURE)).content[1]
        assert isinstance(image, ImageContent)
        assert image.data.startswith("iVBOR")
        assert not (await run(client, NOISE)).is_error
        await client.call_tool("upload", {"name": "data.csv", "content": "1,2"})
        read = await run(client, "open('data.csv').read()")
        assert read.content[0].text == "'1,2'"
        result = await run(client, "x = 1\nimport time; time.sleep(60)", timeout=0.5)
        assert result.is_error
        assert "Traceback (most recent call last)" in result.content[0].text
        assert "\x1b" not in result.content[0].text
        assert result.content[0].text.endswith("are kept. A longer timeout may help")
        assert (await run(client, "x")).content[0].text == "1"
        assert "NameError" in (await run(client, "x", conversation="other")).content[0].text
        with anyio.move_on_after(1):
            await run(client, "while True: pass")
        assert (await run(client, "x")).content[0].text == "1"
    assert left(tmp_path) == []


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.skipif(NO_SANDBOX is not None, reason=str(NO_SANDBOX))
async def test_sandboxed_conversation(tmp_path: Path) -> None:
    async with connected(tmp_path, "--sandbox", "{}") as client:
        await client.call_tool("upload", {"name": "in/data.csv", "content": "1,2"})
        assert (await run(client, COPY)).content[0].text == "'1,2'"
        read = await client.call_tool("download", {"name": "out/data.csv"})
        assert read.content[0].text == "1,2"
        (root,) = left(tmp_path)
        assert not (await run(client, "1", conversation="other")).is_error
        found = await run(client, f"import os; os.listdir({str(tmp_path / root)!r})")
        assert found.content[0].text == "['default']"
        connect = "import socket; socket.create_connection(('127.0.0.1', 22))"
        assert "Error" in (await run(client, connect)).content[0].text
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("sandbox", "fault"),
    [
        ("{", " must be the settings of a sandbox in JSON: "),
        ('{"net": 1}', " must be the settings of a sandbox in JSON: Object contains unknown field"),
        ('{"uid": "200000-299999"}', ": uid must be one number"),
    ],
)
def test_invalid_sandbox_is_refused(kernelproto, sandbox: str, fault: str) -> None:
    done = kernelproto("mcp", "--sandbox", sandbox)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: --sandbox{fault}")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.usefixtures("no_leaks")
async def test_killed_server_ends_the_call_and_its_kernels(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        with pytest.raises(MCPError, match="closed"):
            await run(client, KILL)
    (abandoned,) = left(tmp_path)
    os.utime(tmp_path / abandoned, (0, 0))
    async with connected(tmp_path) as client:
        await client.list_tools()
        assert abandoned not in left(tmp_path)
    assert left(tmp_path) == []


@pytest.mark.usefixtures("no_leaks")
def test_signal_ends_the_server(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "mcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(TMPDIR=str(tmp_path)),
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write('{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        server.stdin.flush()
        assert '"id":1' in server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        assert server.wait(GUARD_SECONDS) == 128 + signal.SIGTERM
    assert left(tmp_path) == []


def test_limit_that_allows_nothing_is_refused(kernelproto) -> None:
    done = kernelproto("mcp", "--timeout", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: timeout must be more than 0, not 0.0\n"
