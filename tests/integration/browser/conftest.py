"""A browser, and servers whose dashboard it opens."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass

import anyio
import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.applications import Starlette
from starlette.routing import Mount

from kernelproto import KernelFinder, KernelPool, KernelProvider
from kernelproto.interfaces import User, UserRequest
from kernelproto.server import Settings, create_app
from kernelproto.server.auth.authenticators import token_of
from kernelproto.testing import FakeProvider
from tests.integration.browser.devtools import Browser, browser
from tests.integration.installing import installed_client


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser that tests.integration.clients.install has installed."""
    with browser(installed_client("chromium") / "chromium") as found:
        yield found


class ByName:
    """Takes a token for a name: who is called root is an admin.

    Attributes:
        banned: whom it does not know any more.
    """

    def __init__(self) -> None:
        self.banned = {"stranger"}

    async def authenticate(self, request: UserRequest) -> User | None:
        name = token_of(request)
        return User(name, admin=name == "root") if name and name not in self.banned else None


@dataclass
class Server:
    """A server, which runs in a thread of its own.

    Attributes:
        url: of the dashboard.
        pool: has the kernels.
        users: who are let in.
        portal: calls functions where the server runs.
    """

    url: str
    pool: KernelPool
    users: ByName
    portal: BlockingPortal

    def start(self, user: str) -> str:
        """Start a user's kernel; return its id."""
        return self.portal.call(self.pool.get, user).kernel_id

    def start_many(self, users: list[str]) -> None:
        """Start a kernel for each of many users."""

        async def start() -> None:
            for user in users:
                await self.pool.get(user)

        self.portal.call(start)


Serving = Callable[..., AbstractContextManager[Server]]


@pytest.fixture
def serving() -> Serving:
    """Give a function that serves the kernels of a provider, of fakes by default."""

    @contextmanager
    def serving(
        provider: KernelProvider | None = None, kernel: str = "fake/kernel", *, limit: int = 50
    ):
        with start_blocking_portal() as portal:
            running = application(provider, kernel, portal, limit)
            with portal.wrap_async_context_manager(running) as server:
                yield server

    return serving


@asynccontextmanager
async def application(
    provider: KernelProvider | None, kernel: str, portal: BlockingPortal, limit: int
) -> AsyncGenerator[Server]:
    """Serve below a prefix, as behind a proxy or in another application."""
    users = ByName()
    settings = Settings(kernel=kernel)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with AsyncExitStack() as stack:
            if provider is None:
                provider = await stack.enter_async_context(FakeProvider())
            finder = KernelFinder([provider])
            pool = await stack.enter_async_context(
                KernelPool(finder=finder, kernel_type=kernel, max_kernels=limit)
            )
            tasks = await stack.enter_async_context(anyio.create_task_group())
            app = create_app(pool, finder=finder, authenticator=users, settings=settings)
            site = Starlette(routes=[Mount("/hub", app)])
            config = uvicorn.Config(site, lifespan="off", log_config=None)
            server = uvicorn.Server(config)
            port = listener.getsockname()[1]
            tasks.start_soon(serve, server, listener)
            try:
                yield Server(f"http://127.0.0.1:{port}/hub/", pool, users, portal)
            finally:
                server.should_exit = True


async def serve(server: uvicorn.Server, listener: socket.socket) -> None:
    with anyio.CancelScope(shield=True):  # it closes its connections, also when a test fails
        await server.serve([listener])
