"""The application on a machine without uvicorn."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import importlib
import pkgutil
import sys

sys.modules["uvicorn"] = None  # importing it, or a part of it, raises ImportError

import anyio
import httpx

import kernelproto.server
from kernelproto import KernelFinder, KernelPool
from kernelproto.server import SingleUserToken, create_app
from kernelproto.testing import FakeProvider

PREFIX = "kernelproto.server."
for module in pkgutil.walk_packages(kernelproto.server.__path__, PREFIX):
    if not module.name.startswith((PREFIX + "program", PREFIX + "__main__")):
        importlib.import_module(module.name)


async def main():
    async with FakeProvider() as provider:
        finder = KernelFinder([provider])
        async with KernelPool(finder=finder, kernel_type="fake/kernel") as pool:
            app = create_app(pool, finder=finder, authenticator=SingleUserToken("t"))
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),
                base_url="http://server.test",
                headers={"authorization": "token t"},
            ) as client:
                response = await client.post("/api/kernels", json={"name": "fake/kernel"})
                print(response.status_code, len(pool.kernels()))


anyio.run(main)
"""


def test_application_serves_without_uvicorn() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("201 1\n", "")
