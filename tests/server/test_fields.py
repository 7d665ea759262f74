"""The size of each field that a client fills must not multiply the server's work.

The tests count function calls instead of seconds, so a busy machine does not change the result.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing

pytestmark = pytest.mark.anyio

MANY = 20_000
MOST_ECHOED = 400


async def calls_of(function: Callable[[], Awaitable[Any]]) -> tuple[int, Any]:
    """Return the number of functions that a call executes, and its result."""
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(note)
    try:
        result = await function()
    finally:
        sys.setprofile(None)
    return count, result


Body = Callable[[int], dict[str, Any]]

# The bodies by their fields, and whether the path is that of kernels or sessions.
BODIES: dict[str, Body] = {
    "id": lambda n: {"id": "x" * n},
    "kernel_id": lambda n: {"kernel_id": "0" * n},
    "name": lambda n: {"name": "fake/" + "kernel" * n},
    "path of parts": lambda n: {"path": "a/" * n},
    "path of bytes": lambda n: {"path": "x" * n},
    "path of wide characters": lambda n: {"path": "\N{SNOWMAN}" * n},
    "gateway's path": lambda n: {"env": {"KERNEL_WORKING_DIR": "/a" * n}},
    "variables": lambda n: {"env": {f"KERNEL_{number}": "" for number in range(n)}},
    "name of a variable": lambda n: {"env": {"KERNEL_" * n: ""}},
    "value of a variable": lambda n: {"env": {"KERNEL_X": "x" * 8 * n}},
}
SESSION = {"path": "a", "type": "notebook"}
SESSION_BODIES: dict[str, Body] = {
    "path of parts": lambda n: SESSION | {"path": "a/" * n},
    "path of bytes": lambda n: SESSION | {"path": "x" * n},
    "type": lambda n: SESSION | {"type": "x" * n},
    "name": lambda n: SESSION | {"name": "x" * n},
    "kernel's id": lambda n: SESSION | {"kernel": {"id": "x" * n}},
    "kernel's name": lambda n: SESSION | {"kernel": {"name": "spec/" + "x" * n}},
    "kernel's path": lambda n: SESSION | {"kernel": {"path": "a/" * n}},
}
ALL_BODIES = [
    *(
        pytest.param("POST", "/api/kernels", body, id=f"kernel {name}")
        for name, body in BODIES.items()
    ),
    *(
        pytest.param(method, path, body, id=f"{method} session {name}")
        for method, path in (("POST", "/api/sessions"), ("PATCH", "/api/sessions/{session}"))
        for name, body in SESSION_BODIES.items()
    ),
]


@pytest.mark.parametrize(("method", "path", "body"), ALL_BODIES)
async def test_field_of_a_body_is_bounded(serving, method: str, path: str, body: Body) -> None:
    """The decoder refuses the field, so the number of calls does not depend on its size."""
    counts = []
    async with (
        serving({"max_body_bytes": 2**23}, max_per_user=3) as server,
        server.client("ada") as ada,
    ):
        session = (await ada.post("/api/sessions", json=SESSION)).json()["id"]
        for size in (MANY, MANY, 4 * MANY):
            data = json.dumps(body(size))
            ask = partial(ada.request, method, path.format(session=session), content=data)
            count, response = await calls_of(ask)
            counts.append(count)
            assert response.status_code == 400
            assert len(response.json()["message"]) < MOST_ECHOED
        assert len(server.provider.kernels) == 1
    assert counts[2] < 1.5 * counts[1] + 1000


REQUESTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "id of a kernel": lambda n: {"url": f"/api/kernels/{'x' * n}"},
    "id of a session": lambda n: {"url": f"/api/sessions/{'x' * n}"},
    "name of a kernel type": lambda n: {"url": f"/api/kernelspecs/{'x' * n}"},
    "parts of a kernel type": lambda n: {"url": "/api/kernelspecs" + "/x" * n},
    "parts of a resource": lambda n: {"url": "/kernelspecs" + "/x" * n},
    "parts of a path": lambda n: {"url": "/api" + "/x" * n},
    "fields of a query": lambda n: {"url": "/api/kernels?" + "a=1&" * n},
    "value in a query": lambda n: {"url": f"/api/kernels?include_all={'x' * n}"},
    "token in a query": lambda n: {"url": f"/api/kernels?token={'x' * n}"},
    "headers": lambda n: {"headers": [(f"X{number}", "") for number in range(n)]},
    "equal headers": lambda n: {"headers": [("Cookie", "a=b")] * n},
    **{
        name: lambda n, name=name: {"headers": {name: "x," * n}}
        for name in (
            "Authorization",
            "Cookie",
            "Host",
            "If-None-Match",
            "Range",
            "X-Forwarded-For",
            "X-Forwarded-Prefix",
            "X-Forwarded-Proto",
            "X-Forwarded-User",
        )
    },
    "Origin": lambda n: {"method": "POST", "headers": {"Origin": "http://" + "x." * n}},
}


@pytest.mark.parametrize("fill", REQUESTS.values(), ids=REQUESTS)
async def test_work_for_a_field_of_a_head_is_linear(serving, fill) -> None:
    counts = []
    async with serving() as server, server.client("ada") as ada:
        for size in (500, 500, 2000):
            options = {"method": "GET", "url": "/api/kernels", **fill(size)}
            count, response = await calls_of(partial(ada.request, **options))
            counts.append(count)
            assert response.status_code < 500
            if response.status_code >= 400:
                assert len(response.json()["message"]) < MOST_ECHOED
    assert counts[2] < 4.5 * counts[1]


@pytest.mark.parametrize("name", ["session_id", "last_msg_id"])
async def test_name_of_a_websocket_is_bounded(serving, name: str) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, query=f"{name}={'x' * 256}") as socket:
            await socket.finish(await socket.execute("6 * 7"))
        async with server.connect("ada", kernel_id, query=f"{name}={'x' * 257}") as socket:
            assert socket.refused == 400
            assert b"256 characters" in socket.refusal


async def test_name_of_a_user_is_bounded(serving) -> None:
    async with serving() as server:
        for size, status in ((256, 201), (257, 403)):
            async with server.client("x" * size) as client:
                assert (await client.post("/api/kernels")).status_code == status


@pytest.mark.parametrize("field", ["msg_id", "msg_type", "session", "username", "date"])
async def test_header_of_a_message_is_bounded(serving, field: str) -> None:
    framing = client_framing(V1_SUBPROTOCOL)
    async with serving() as server:
        kernel_id = await server.start("ada")
        fields = {"msg_id": "1", "msg_type": "comm_info_request", field: "x" * 65_536}
        for header, parent in (
            (Header(**fields), None),
            (Header(msg_id="1", msg_type="input_reply"), Message.build(Header(**fields), {})),
        ):
            message = Message.build(header, {}, parent=parent)
            async with server.connect("ada", kernel_id) as socket:
                await socket.send_raw(framing.encode("stdin", message))
                with pytest.raises(anyio.EndOfStream):
                    await socket.receive_until("never")
            assert socket.closed is not None
            assert socket.closed[0] == 1007
            assert "at most 65536 bytes" in socket.closed[1]
