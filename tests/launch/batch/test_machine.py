from __future__ import annotations

import socket

import pytest

from kernelproto.launch.batch.machine import silence
from tests.launch.batch.silent import filled

pytestmark = pytest.mark.anyio


async def test_machine_with_a_listening_kernel_answers(no_leaks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert await silence("127.0.0.1", server.getsockname()[1]) is None


async def test_machine_that_refuses_a_connection_answers(no_leaks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert await silence("127.0.0.1", port) is None


async def test_machine_that_drops_connections_is_silent(no_leaks) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        address = server.getsockname()
        with filled(address):
            problem = await silence(*address)
    assert problem == "its machine '127.0.0.1' does not answer: no connection after 2 s"


async def test_unknown_name_is_a_problem(no_leaks) -> None:
    problem = await silence(f"{'a' * 70}.invalid", 1)
    assert problem is not None
    assert "does not answer: " in problem
