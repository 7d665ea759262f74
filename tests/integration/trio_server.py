"""The application on Trio, served by hypercorn, with the settings of the environment: a program."""

from __future__ import annotations

import os
import signal
import socket
import sys

import anyio
from hypercorn.config import Config
from hypercorn.trio import serve

from kernelproto import KernelFinder, KernelPool
from kernelproto.server import ProxyHeader, create_app
from kernelproto.server.settings import load_settings


async def main() -> None:
    settings = load_settings(environ=os.environ)
    finder = KernelFinder.from_entrypoints()
    authenticator = ProxyHeader(settings.proxy_header, trusted=settings.trusted_proxies)
    config = Config()
    config.graceful_timeout = 5
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        config.bind = [f"fd://{listener.fileno()}"]
        sys.stderr.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        async with KernelPool(
            finder=finder, kernel=settings.kernel, max_kernels=settings.max_kernels
        ) as pool:
            app = create_app(pool, finder=finder, authenticator=authenticator, settings=settings)
            await serve(app, config, shutdown_trigger=wait_for_signal)


async def wait_for_signal() -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            return


if __name__ == "__main__":
    anyio.run(main, backend="trio")
