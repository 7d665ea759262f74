"""Several servers of one registry in this program, each on a port of its own."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.trio
import sniffio
from hypercorn.config import Config
from starlette.applications import Starlette

from kernelproto import KernelFinder, KernelPool
from kernelproto.registry import Registry
from kernelproto.server import Settings, create_app
from tests.server.conftest import ByName, Server

# The applications have the registry of the pool; the setting only has to be there.
_REGISTRY = "postgresql://localhost/none"


@dataclass
class Gateway(Server):
    """A server, and its name in the registry."""

    url: str


@asynccontextmanager
async def gateway(registry: Registry, **options: Any) -> AsyncGenerator[Gateway]:
    """Serve kernels on a port for the block."""
    settings = {"kernel": "spec/scripted", **options.pop("settings", {})}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        finder = KernelFinder.from_entrypoints()
        options = {"kernel_type": settings["kernel"], "max_per_user": 5, **options}
        async with KernelPool(
            finder=finder, registry=registry, node=url, shared=True, replays=True, **options
        ) as pool:
            app = create_app(
                pool,
                finder=finder,
                authenticator=ByName(),
                settings=Settings(**settings, node_url=url, registry=_REGISTRY),
            )
            async with _served(app, listener):
                yield Gateway(app, pool, None, url)


@asynccontextmanager
async def gateways(registry: Registry, count: int, **options: Any) -> AsyncGenerator[list[Gateway]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(gateway(registry, **options)) for _ in range(count)]


@asynccontextmanager
async def _served(app: Starlette, listener: socket.socket) -> AsyncGenerator[None]:
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 0.1
    config.errorlog = None
    ended = anyio.Event()
    is_trio = sniffio.current_async_library() == "trio"
    serve: Any = hypercorn.trio.serve if is_trio else hypercorn.asyncio.serve
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(serve, app, config, shutdown_trigger=ended.wait))
        try:
            yield
        finally:
            ended.set()
