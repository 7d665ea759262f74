"""Shows: kernels in an existing web service, for the users of that service.

Needs: kernelproto[ipykernel,server]
Run:   python examples/14_mount_in_starlette.py
"""

import json
import socket
import threading
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from kernelproto import KernelFinder, KernelPool
from kernelproto.interfaces import User, UserRequest
from kernelproto.server import create_app


class Customers:
    """Identifies the users of the service. Any class with this method is an Authenticator."""

    async def authenticate(self, request: UserRequest) -> User | None:
        name = {"Bearer 4711": "ada"}.get(request.headers.get("authorization", ""))
        return User(name) if name else None


finder = KernelFinder.from_entrypoints()
pool = KernelPool(finder=finder, max_kernels=10)


async def welcome(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"kernels of our customers: {len(pool.kernels())}")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with pool:  # its kernels end with the service
        yield


kernels = create_app(pool, finder=finder, authenticator=Customers())
service = Starlette(routes=[Route("/", welcome), Mount("/jupyter", kernels)], lifespan=lifespan)


def ask(path: str, method: str = "GET") -> str:
    headers = {"Authorization": "Bearer 4711"}
    request = urllib.request.Request(url + path, method=method, headers=headers)
    with urllib.request.urlopen(request) as response:
        return str(response.read(), "utf-8")


with socket.create_server(("127.0.0.1", 0)) as listener:
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(service, log_level="warning", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        print(ask("/"))
        print("started:", json.loads(ask("/jupyter/api/kernels", "POST"))["name"])
        print(ask("/"))
    finally:
        server.should_exit = True
        thread.join()
