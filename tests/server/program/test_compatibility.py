"""The protocols for the installed uvicorn, and for one with other methods."""

from __future__ import annotations

import socket
import sys
from typing import Any

import anyio
import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from kernelproto.server.connections import Connections
from kernelproto.server.program.compatibility import choose_protocols, shape_faults
from kernelproto.server.program.serve import _Server
from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing

GUARD_SECONDS = 60
PLAIN = (H11Protocol, WebSocketsSansIOProtocol)


@pytest.mark.parametrize("protocol", PLAIN)
def test_installed_uvicorn_is_supported(protocol: type) -> None:
    assert shape_faults(protocol) == []


@pytest.mark.parametrize(
    ("protocol", "name", "instead"),
    [
        (H11Protocol, "handle_events", None),
        (H11Protocol, "data_received", lambda self, data, more: None),
        (H11Protocol, "__init__", lambda self, config, server_state, app_state, _loop: None),
        (WebSocketsSansIOProtocol, "handle_parser_exception", None),
        (WebSocketsSansIOProtocol, "handle_cont", lambda self: None),
        # used by the acknowledgements alone:
        (WebSocketsSansIOProtocol, "keepalive_timeout", None),
        (WebSocketsSansIOProtocol, "handle_pong", lambda self, event, ping: None),
        (WebSocketsSansIOProtocol, "send", lambda self, event: None),
        (WebSocketsSansIOProtocol, "handle_connect", lambda self, event: None),  # sets no scope
    ],
)
def test_unsupported_uvicorn_gets_its_own_protocols_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog, protocol: type, name: str, instead: Any
) -> None:
    http, websocket = choose_protocols(Connections())
    assert http not in PLAIN
    assert websocket not in PLAIN
    assert caplog.messages == []
    monkeypatch.setattr(protocol, name, instead)
    assert choose_protocols(Connections()) == PLAIN
    (warning,) = caplog.messages
    assert f"{protocol.__name__}." in warning
    assert uvicorn.__version__ in warning


@pytest.mark.parametrize(
    "missing",
    [
        "uvicorn.protocols.http.h11_impl",
        "uvicorn.protocols.websockets.websockets_sansio_impl",
        "kernelproto.server.program.acknowledgements",  # if one of its imports fails
    ],
)
def test_missing_module_of_uvicorn_gets_the_default_protocols_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert choose_protocols(Connections()) == ("h11", "auto")
    (warning,) = caplog.messages
    assert missing in warning


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)
@pytest.mark.parametrize("fault", ["shape", "module"])
async def test_kernels_are_served_without_acknowledgements(
    serving, monkeypatch: pytest.MonkeyPatch, caplog, fault: str
) -> None:
    if fault == "shape":
        monkeypatch.setattr(WebSocketsSansIOProtocol, "handle_pong", lambda self, event, ping: None)
    else:
        name = "kernelproto.server.program.acknowledgements"
        monkeypatch.setitem(sys.modules, name, None)
    http, websocket = choose_protocols(Connections())
    with anyio.fail_after(GUARD_SECONDS), socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        async with serving() as server, anyio.create_task_group() as tasks:
            kernel_id = await server.start("ada")
            config = uvicorn.Config(
                server.app, lifespan="off", http=http, ws=websocket, log_config=None
            )
            program = _Server(config)
            tasks.start_soon(program.serve, [listener])
            async with connect(
                f"{url}/api/kernels/{kernel_id}/channels?token=ada",
                subprotocols=[Subprotocol(V1_SUBPROTOCOL)],
                proxy=None,
            ) as client:
                framing = client_framing(client.subprotocol)
                header = Header(msg_id="1", msg_type="execute_request", session="s", version="5.4")
                request = Message.build(header, {"code": "6 * 7"})
                await client.send(framing.encode("shell", request))
                answers: list[Message] = []
                while not answers or answers[-1].msg_type != "execute_reply":
                    answers.append(framing.decode(await client.recv())[1])
            program.should_exit = True
    assert "execute_result" in {answer.msg_type for answer in answers}
    (warning,) = [record for record in caplog.records if record.name.endswith("compatibility")]
    assert "can lose outputs" in warning.getMessage()
