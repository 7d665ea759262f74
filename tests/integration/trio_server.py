"""The application on Trio, served by hypercorn, with the settings of the environment: a program."""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial

import anyio
from hypercorn.config import Config
from hypercorn.trio import serve

from kernelproto import Backoff, KernelFinder, KernelPool, RestartPolicy
from kernelproto.server import ProxyHeader, create_app
from kernelproto.server.settings_sources import load_settings


async def main() -> None:
    settings = load_settings(environ=os.environ)
    finder = KernelFinder.from_entrypoints()
    authenticator = ProxyHeader(settings.proxy_header, trusted=settings.trusted_proxies)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    # hypercorn sends without end to a client that does not read; the system does not.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    sys.stderr.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    config = Config()
    config.graceful_timeout = 5
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes it
    ending = anyio.Event()
    async with (
        anyio.create_task_group() as tasks,
        # It ends before hypercorn does: connections end with their kernels, and are told.
        KernelPool(
            finder=finder,
            kernel_type=settings.kernel,
            max_kernels=settings.max_kernels,
            restart=RestartPolicy(backoff=Backoff(initial=0.01)),
        ) as pool,
    ):
        app = create_app(pool, finder=finder, authenticator=authenticator, settings=settings)
        await tasks.start(partial(serve, app, config, shutdown_trigger=ending.wait))
        await wait_for_signal()
        ending.set()


async def wait_for_signal() -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            return


if __name__ == "__main__":
    anyio.run(main, backend="trio")
