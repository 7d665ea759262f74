"""The limits of connections and WebSockets."""

from __future__ import annotations

import logging

import pytest

from kernelproto.server.connections import (
    MAX_REFUSED,
    Connections,
    FewWarnings,
    FrameBudget,
    UserSockets,
)


class Connection:
    def __init__(self) -> None:
        self.is_displaced = False

    def displace(self) -> None:
        self.is_displaced = True


def test_connection_without_a_request_for_longest_is_displaced() -> None:
    connections = Connections(most=3)
    first, second, third, fourth = (Connection() for _ in range(4))
    for connection in (first, second, third):
        assert connections.admit(connection)
    connections.begin_request(first)
    connections.wait_for_request(first)  # its wait starts again
    assert connections.admit(fourth)
    assert second.is_displaced
    assert not any(connection.is_displaced for connection in (first, third, fourth))
    connections.remove(second)
    assert (connections.open, connections.displaced, connections.refused) == (3, 1, 0)


def test_connections_with_requests_are_not_displaced() -> None:
    connections = Connections(most=2)
    served = [Connection(), Connection()]
    for connection in served:
        assert connections.admit(connection)
        connections.begin_request(connection)
    refused = Connection()
    assert not connections.admit(refused)
    connections.wait_for_request(refused)  # it was answered
    assert not any(connection.is_displaced for connection in [*served, refused])
    assert (connections.open, connections.refused) == (3, 1)
    connections.remove(refused)
    connections.remove(served[0])
    assert connections.admit(Connection())
    assert connections.open == 2


def test_few_refused_connections_are_answered() -> None:
    connections = Connections(most=1)
    served = Connection()
    connections.admit(served)
    connections.begin_request(served)
    refused = [Connection() for _ in range(MAX_REFUSED + 1)]
    responses = []
    for connection in refused:
        assert not connections.admit(connection)
        responses.append(connections.may_respond())
    assert responses == [True] * MAX_REFUSED + [False]
    connections.remove(refused[0])
    assert connections.may_respond()


def test_number_of_warnings_is_limited(caplog) -> None:
    warn = FewWarnings()
    with caplog.at_level(logging.WARNING):
        for number in range(100):
            warn(f"warning {number}")
    assert caplog.messages == ["warning 0"]


def test_frame_budget() -> None:
    budget = FrameBudget(100)
    assert budget.spend(500, 10.0)
    assert not budget.spend(1, 10.0)
    assert budget.spend(99, 11.0)
    assert not budget.spend(200, 11.5)
    assert budget.spend(500, 100.0)


def test_websockets_per_user_are_limited(caplog) -> None:
    sockets = UserSockets(2)
    with sockets.place("ada") as first, sockets.place("ada") as second:
        with sockets.place("ada") as third, sockets.place("bob") as other:
            assert (first, second, third, other) == (True, True, False, True)
        with sockets.place("ada") as fourth:
            assert not fourth
    with sockets.place("ada") as fifth:
        assert fifth
    assert sockets.refused == 2
    assert "ada has 2" in caplog.text


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_app_limits_websockets_per_user(serving) -> None:
    async with serving({"max_websockets_per_user": 2}) as server:
        kernel_id, others = await server.start("ada"), await server.start("bob")
        async with (
            server.connect("ada", kernel_id) as first,
            server.connect("ada", kernel_id),
            server.connect("bob", others) as other,
        ):
            async with server.connect("ada", kernel_id) as third:
                assert third.refused == 503
                assert b"max_websockets_per_user" in third.refusal
            for socket in (first, other):
                await socket.finish(await socket.execute("6 * 7"))
        async with server.connect("ada", kernel_id) as fourth:
            await fourth.finish(await fourth.execute("6 * 7"))
        async with server.client("root") as root:
            text = (await root.get("/metrics")).text
    assert 'connections_refused_total{limit="max_websockets_per_user"} 1.0' in text
