"""The client of the contexts, with fake kernels and without a network."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest

from kernelproto import LocalProtocolError, MalformedMessage
from kernelproto.remote import ContextNotFound, RemoteServer, RemoteServerError, connect_server

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@asynccontextmanager
async def connected(server, token: str = "ada", **options) -> AsyncGenerator[RemoteServer]:
    transport = httpx.ASGITransport(app=server.app)
    async with connect_server(
        "http://server.test", token=token, transport=transport, **options
    ) as remote:
        yield remote


def answering(body: bytes) -> httpx.ASGITransport:
    """Return the transport to another server, which has one answer."""

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return httpx.ASGITransport(app=app)


async def test_life_of_a_context(serving, tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    settings = {"root_dir": str(tmp_path)}
    async with serving(settings) as server, connected(server) as remote:
        env = {"KERNEL_A": "1"}
        async with remote.run_context(kernel="fake/kernel", cwd="sub", env=env) as context:
            model = await context.model()
            assert (model.id, model.cwd) == (context.id, str(tmp_path / "sub"))
            assert await remote.contexts() == [model]
            result = await context.execute("6 * 7")
            assert (result.text, result.execution_count) == ("42", 1)
            assert (await context.restart()).previous_end == "the kernel was restarted"
            await context.interrupt()
            assert (await remote.context(context.id).execute("6 * 7")).text == "42"
            assert server.provider.kernels[0].env["KERNEL_A"] == "1"
        assert await remote.contexts() == []
        async with remote.run_context() as context:  # a block may end its context itself
            await context.end()


async def test_files(serving, tmp_path) -> None:
    settings = {"root_dir": str(tmp_path)}
    async with (
        serving(settings) as server,
        connected(server) as remote,
        remote.run_context() as context,
    ):
        await context.upload("a b/caf\u00e9?.txt", b"0123456789")
        (file,) = (await context.files()).files
        assert (file.name, file.size) == ("a b/caf\u00e9?.txt", 10)
        assert await context.download(file.name) == b"0123456789"
        assert await context.download(file.name, offset=2, length=3) == b"234"
        assert await context.download(file.name, offset=8) == b"89"
        assert await context.download(file.name, offset=10) == b""
        assert await context.download(file.name, length=0) == b""
        await context.remove_file(file.name)
        with pytest.raises(ContextNotFound, match="does not exist"):
            await context.download(file.name)
        for name in ("../x", "/x", "", "."):
            with pytest.raises(LocalProtocolError, match="is not a name of a file"):
                await context.upload(name, b"")
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(RemoteServerError, match="symbolic link") as caught:
            await context.download("link")
        assert caught.value.status == 400


async def test_lost_outputs_are_noted() -> None:
    body = b"""{"type": "stdout", "text": "a"}
{"type": "keepalive"}
{"type": "outputs_lost", "count": 2}
{"type": "from the future"}
{"type": "stdout", "text": "b"}
{"type": "end_of_execution", "status": "aborted"}
"""
    async with connect_server("http://server.test", transport=answering(body)) as remote:
        result = await remote.context("x").execute("1")
    assert (result.stdout, result.status, result.outputs_complete) == ("ab", "aborted", False)


async def test_refusals(serving) -> None:
    async with serving() as server:
        async with connected(server, "stranger") as remote:
            with pytest.raises(RemoteServerError, match="unknown token") as caught:
                await remote.contexts()
            assert caught.value.status == 403
        async with connected(server) as remote:
            with pytest.raises(RemoteServerError, match="no kernel type for 'cobol'"):
                await remote.start_context(language="cobol")
            with pytest.raises(LocalProtocolError, match="timeout"):
                remote.context("x").execute("1", timeout=-1)


@pytest.mark.parametrize("body", [b"hello", b'{"type": 1}\n'])
async def test_other_servers(body: bytes) -> None:
    async with connect_server("http://server.test", transport=answering(body)) as remote:
        with pytest.raises(MalformedMessage, match="Check the URL"):
            await remote.contexts()
        if b"type" in body:
            with pytest.raises(MalformedMessage):
                await remote.context("x").execute("1")
