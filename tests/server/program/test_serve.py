"""The server as a program, with real kernels, over a real network."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
import httpx
import msgspec
import psutil
import pytest
from anyio.lowlevel import checkpoint
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from kernelproto.exceptions import InvalidSettings
from kernelproto.launch.finder import KernelFinder
from kernelproto.server import (
    Settings,
)
from kernelproto.server.auth.authenticators import hash_token
from kernelproto.server.program.serve import _environments, main, serve
from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60


@contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Run the program; yield it, and a client with the token that it prints."""
    command = [sys.executable, "-m", "kernelproto.server", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = None
            while found is None:
                line = process.stderr.readline()
                assert line, "the server has ended"
                found = re.search(r"http://[\d.]+:\d+/(\?token=\S+)?", line)
            url = httpx.URL(found.group())
            headers = {"authorization": f"token {url.params.get('token', 'none')}"}
            url = url.copy_with(query=None)
            with httpx.Client(base_url=url, headers=headers, timeout=GUARD_SECONDS) as client:
                yield process, client
        finally:
            process.terminate()
            process.communicate(timeout=GUARD_SECONDS)


def channels(client: httpx.Client, kernel_id: str, *, v1: bool = True):
    url = str(client.base_url.join(f"/api/kernels/{kernel_id}/channels")).replace("http", "ws", 1)
    return connect(
        url,
        subprotocols=[V1_SUBPROTOCOL] if v1 else None,
        additional_headers={"authorization": client.headers["authorization"]},
        max_size=None,
        proxy=None,
    )


def execute(socket, code: str, msg_id: str) -> list[Message]:
    """Execute code; return the messages of it, up to the reply and "idle"."""
    framing = client_framing(socket.subprotocol)
    header = Header(msg_id=msg_id, msg_type="execute_request", session="s", version="5.4")
    socket.send(framing.encode("shell", Message.build(header, {"code": code})))
    messages: list[Message] = []
    ends = {"reply", "idle"}
    while ends:
        _, message = framing.decode(socket.recv(timeout=GUARD_SECONDS))
        if message.parent_header is not None and message.parent_header.msg_id == msg_id:
            messages.append(message)
            if message.msg_type == "execute_reply":
                ends.discard("reply")
            elif message.msg_type == "status" and message.content.execution_state == "idle":
                ends.discard("idle")
    return messages


def closing_code(socket) -> int | None:
    """Wait until the server closes a WebSocket; return the code."""
    while socket.close_code is None:
        with suppress(ConnectionClosed):
            socket.recv(timeout=GUARD_SECONDS)
    return socket.close_code


def test_serves_real_kernels_and_shuts_them_down() -> None:
    with served() as (process, client):
        assert httpx.get(client.base_url.join("/api/kernels")).status_code == 403
        kernel_id = client.post("/api/kernels").json()["id"]
        with pytest.raises(InvalidStatus), channels(client, "nonsense"):
            pass
        for v1 in (True, False):
            with channels(client, kernel_id, v1=v1) as socket:
                assert socket.subprotocol == (V1_SUBPROTOCOL if v1 else None)
                messages = execute(socket, "print('x' * 1_000_000); 6 * 7", f"v1-{v1}")
                (result,) = [m for m in messages if m.msg_type == "execute_result"]
                assert result.content.data["text/plain"] == "42"
                output = "".join(m.content.text for m in messages if m.msg_type == "stream")
                assert len(output) == 1_000_001
        with channels(client, kernel_id) as socket:
            process.send_signal(signal.SIGTERM)
            assert closing_code(socket) == 1012
            assert socket.close_reason == "The server is shutting down: try again in a moment."
        assert process.wait(GUARD_SECONDS) == 0


def test_frame_above_the_limit_closes_the_websocket() -> None:
    with served("--max-message-bytes", "1000") as (_, client):
        kernel_id = client.post("/api/kernels").json()["id"]
        with channels(client, kernel_id) as socket:
            socket.send(b"x" * 1001)
            assert closing_code(socket) == 1009
        while client.get("/api/kernels").json()[0]["connections"]:
            pass  # the server is still cleaning up


def test_users_of_a_token_file(tmp_path) -> None:
    path = tmp_path / "users.toml"
    path.write_text(f"[ada]\ntoken = '{hash_token('tick')}'\n")
    with served("--authentication", "file", "--token-file", str(path)) as (_, client):
        assert client.get("/api/me").status_code == 403
        client.headers["authorization"] = "Bearer tick"
        assert client.get("/api/me").json()["identity"]["username"] == "ada"


@pytest.mark.parametrize("kernel", ["pyimport/kernel", "fork/kernel"])
def test_kernels_do_not_inherit_secrets_of_the_server(monkeypatch, kernel: str) -> None:
    secrets = ("KERNELPROTO_TOKEN", "JUPYTERHUB_API_TOKEN", "OF_THE_DATABASE")
    for name in secrets:
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("KERNELPROTO_HIDE_ENV", "OF_THE_*")
    with served("--kernel", kernel) as (_, client):
        client.headers["authorization"] = "token s3cret"
        env = {f"KERNEL_{index}": f"${{{name}}}" for index, name in enumerate(secrets)}
        kernel_id = client.post("/api/kernels", json={"env": env}).json()["id"]
        with channels(client, kernel_id) as socket:
            messages = execute(socket, "import os; print(dict(os.environ))", "environment")
        output = "".join(m.content.text for m in messages if m.msg_type == "stream")
    assert "'KERNEL_0': '${KERNELPROTO_TOKEN}'" in output
    assert "s3cret" not in output


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
def test_kernel_type_of_the_settings_file_has_warm_kernels(tmp_path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        """
        max_per_user = 50
        [limits.kernels."fork/kernel"]
        warm = 1
        open_files = 1234
        """
    )
    code = "import os, resource; os.getpid(), resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
    with served("--config", str(config)) as (process, client):
        for _ in range(20):  # the warm kernel may not be ready yet
            before = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            model = client.post("/api/kernels", json={"name": "fork/kernel"}).json()
            with channels(client, model["id"]) as socket:
                messages = execute(socket, code, "m")
            (result,) = [m for m in messages if m.msg_type == "execute_result"]
            pid, limit = ast.literal_eval(result.content.data["text/plain"])
            assert limit == 1234
            if pid in before:
                return
            assert client.delete(f"/api/kernels/{model['id']}").status_code == 204
    pytest.fail("no kernel was warm")


def test_json_log_has_no_secrets() -> None:
    with served("--log-format", "json", "--metrics-token", "for-metrics") as (process, client):
        token = client.headers.pop("authorization").split()[1]
        for path in ("/healthz", "/metrics?token=for-metrics", "/nowhere?token=wrong"):
            client.get(path)
        kernel_id = client.post(f"/api/kernels?token={token}").json()["id"]
        assert client.get("/api/kernels", headers={"x": "y" * 2**17}).status_code == 400
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        text = process.stderr.read()
    lines = [json.loads(line) for line in text.splitlines()]
    (ready,) = [line for line in lines if "ready after" in line["message"]]
    assert (ready["kernel_id"], ready["user"]) == (kernel_id, "user")
    assert "uvicorn.error" in [line["logger"] for line in lines]  # the log of uvicorn is included
    assert not any(secret in text for secret in (token, "for-metrics", "wrong"))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_serves_with_a_header_timeout_until_a_signal(capsys, monkeypatch) -> None:
    settings = Settings(port=0, host="localhost", authentication="none", multi_user=False)
    output = ""
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, settings)
            while "http" not in output:
                await checkpoint()
                output += capsys.readouterr().err
            url = httpx.URL(output.split()[-1])
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.get("/api/me")).json()["identity"]["username"] == "user"
                assert "kernelproto_open_connections 1.0" in (await client.get("/metrics")).text
                while "loop_lag_seconds_count 0.0" in (await client.get("/metrics")).text:
                    await checkpoint()
            monkeypatch.setattr("kernelproto.server.program.header_timeout.HEADER_SECONDS", 0.01)
            async with await anyio.connect_tcp(str(url.host), url.port or 0) as slow:
                await slow.send(b"GET /api/me HTTP/1.1")
                assert b" 408 " in await slow.receive()
            os.kill(os.getpid(), signal.SIGTERM)


def test_invalid_settings_end_the_program(monkeypatch, capsys) -> None:
    monkeypatch.setenv("JUPYTER_KERNEL_MAX_PER_SERVER", "many")
    assert main([]) == 1
    assert "max_kernels from JUPYTER_KERNEL_MAX_PER_SERVER" in capsys.readouterr().err
    monkeypatch.delenv("JUPYTER_KERNEL_MAX_PER_SERVER")
    assert main(["--host", "0.0.0.0", "--authentication", "none"]) == 1
    assert "everyone could run code" in capsys.readouterr().err


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSettings) as caught:
            await serve(Settings(port=port))
    assert str(caught.value) == (
        f"port: cannot listen on 127.0.0.1 port {port}: Address already in use; "
        "choose another one, or 0 for a free one"
    )


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_address_of_another_machine() -> None:
    with pytest.raises(InvalidSettings) as caught:
        await serve(Settings(host="192.0.2.1", port=0))
    assert str(caught.value) == (
        "host: cannot listen on 192.0.2.1 port 0: Cannot assign requested address"
    )


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("settings", "key"),
    [({"root_dir": __file__}, "root_dir"), ({"max_connections": 100_000}, "max_connections")],
)
async def test_settings_are_checked_before_anything_is_served(monkeypatch, settings, key) -> None:
    monkeypatch.setattr("kernelproto.server.program.checks.raise_open_files", lambda: 1000)
    with pytest.raises(InvalidSettings, match=key):
        await serve(Settings(port=0, **settings))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("settings", "offered"),
    [
        (Settings(), False),
        (Settings(environments="on"), True),
        (Settings(multi_user=False), True),
        (Settings(multi_user=False, environments="off"), False),
    ],
)
async def test_environments_of_the_project_in_root_dir(settings, offered, tmp_path) -> None:
    environment = tmp_path / ".venv"
    environment.mkdir()
    environment.joinpath("pyvenv.cfg").touch()
    finder = KernelFinder.from_entrypoints()
    settings = msgspec.structs.replace(settings, root_dir=str(tmp_path))
    finder.load_config({"env": _environments(settings)})
    found = [name async for name, _ in finder.find_kernels()]
    assert ("env/.venv" in found) is offered
    assert "pyimport/kernel" in found


def test_new_token_fits_into_a_token_file(capsys) -> None:
    name = 'a"d\\a'
    assert main(["--new-token", name]) == 0
    lines, message = capsys.readouterr()
    token = message.strip().rpartition(": ")[2]
    assert tomllib.loads(lines) == {name: {"token": hash_token(token)}}
    assert token not in lines
