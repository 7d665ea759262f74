"""Attacks by count, on a server as a program: no other client waits for them."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration import counted
from tests.integration.counted import ATTACKS, LOOPS, Target, target
from tests.integration.oracle import no_pause


@pytest.fixture(scope="module", autouse=True)
def many_files() -> Iterator[None]:
    """Allow an attack to open many connections."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture(scope="module", params=LOOPS)
def server(request: pytest.FixtureRequest) -> Iterator[Target]:
    with target(request.param, starts_per_minute=0) as server:
        yield server


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_no_client_waits_for_an_attack(
    server: Target, attack: counted.Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "MEGABYTES", 0.5)
    with no_pause(server.port, server.pid):
        attack(server)
    (kernel,) = server.request("GET", "/api/kernels")
    assert kernel["id"] == server.kernel_id


@pytest.mark.parametrize("loop", LOOPS)
def test_user_with_many_websockets_keeps_nobody_out(loop: str) -> None:
    limits = {"max_kernels": 2, "max_connections": 250, "max_websockets_per_user": 100}
    with target(loop, **limits) as server, no_pause(server.port, server.pid):
        counted.websockets(server)
        assert server.request("POST", "/api/kernels", "ada", {})["execution_state"]


QUEUED = 1000
LONGEST_QUEUE = Path("/proc/sys/net/core/somaxconn")


@pytest.mark.skipif(
    LONGEST_QUEUE.exists() and int(LONGEST_QUEUE.read_text()) < QUEUED + 100,
    reason="this system allows no longer queue of connections",
)
def test_connections_wait_in_a_queue_while_the_server_is_busy(server: Target) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with ExitStack() as stack:
            for _ in range(QUEUED):
                address = ("127.0.0.1", server.port)
                stack.enter_context(socket.create_connection(address, timeout=10))
    finally:
        os.kill(server.pid, signal.SIGCONT)
    (kernel,) = server.request("GET", "/api/kernels")
    assert kernel["id"] == server.kernel_id
