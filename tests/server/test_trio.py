"""The application on Trio, served by hypercorn, with a real kernel."""

from __future__ import annotations

import anyio
import httpx
import pytest
from hypercorn.config import Config
from hypercorn.trio import serve

from kernelproto import KernelFinder, KernelPool
from kernelproto.launch.providers import IPykernelProvider
from kernelproto.server import SingleUserToken, create_app

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_serves_on_trio(tmp_path) -> None:
    config = Config()
    config.bind = [f"unix:{tmp_path / 'socket'}"]
    ended = anyio.Event()
    finder = KernelFinder([IPykernelProvider()])
    transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "socket"))
    headers = {"authorization": "token t"}
    with anyio.fail_after(60):
        async with KernelPool(finder=finder) as pool, anyio.create_task_group() as tasks:
            app = create_app(pool, finder=finder, authenticator=SingleUserToken("t"))
            await tasks.start(lambda *, task_status: serve_app(app, config, ended, task_status))
            async with httpx.AsyncClient(
                transport=transport, base_url="http://server", headers=headers, timeout=60
            ) as client:
                model = (await client.post("/api/kernels")).json()
                assert model["name"] == "pyimport/kernel"
                assert (await client.get("/api/kernels")).json()[0]["id"] == model["id"]
            ended.set()


async def serve_app(app, config, ended, task_status) -> None:
    await serve(app, config, shutdown_trigger=ended.wait, task_status=task_status)
