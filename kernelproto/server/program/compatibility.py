"""Choose the protocols that fit the installed version of uvicorn.

The protocols of this folder override undocumented methods of uvicorn. If the installed version has
other methods, the server runs on uvicorn's own protocols, and logs one warning.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

from kernelproto.server.connections import Connections
from kernelproto.server.program.pacing import Pacer

logger = logging.getLogger(__name__)

_HTTP = "H11Protocol"
_WEBSOCKET = "WebSocketsSansIOProtocol"

# The methods that are overridden or called, with their parameters.
_METHODS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    _HTTP: {
        "__init__": ("config", "server_state", "app_state", "_loop"),
        "connection_made": ("transport",),
        "connection_lost": ("exc",),
        "data_received": ("data",),
        "handle_events": (),
        "on_response_complete": (),
        "_should_upgrade": (),
    },
    _WEBSOCKET: {
        "__init__": ("config", "server_state", "app_state", "_loop"),
        "connection_made": ("transport",),
        "connection_lost": ("exc",),
        "data_received": ("data",),
        "handle_connect": ("event",),
        "handle_events": (),
        "handle_text": ("event",),
        "handle_bytes": ("event",),
        "handle_cont": ("event",),
        "handle_ping": (),
        "handle_pong": ("event",),
        "handle_parser_exception": (),
        "send_receive_event_to_app": (),
        "keepalive_timeout": (),
        "send": ("message",),
    },
}

# The attributes that are read or set, by the method that assigns them first.
_ATTRIBUTES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    _HTTP: {"__init__": ("app", "conn", "loop", "transport")},
    _WEBSOCKET: {
        "__init__": (
            "client",
            "close_sent",
            "conn",
            "disconnected",
            "frames",
            "handshake_complete",
            "loop",
            "transport",
            "writable",
        ),
        "handle_connect": ("scope",),
    },
}


def choose_protocols(connections: Connections) -> tuple[Any, Any]:
    """Return the protocols for HTTP and WebSockets, as uvicorn's Config takes them.

    Args:
        connections: the connections of the server.
    """
    plain: tuple[Any, Any] = ("h11", "auto")
    try:
        from uvicorn.protocols.http.h11_impl import H11Protocol
        from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

        from kernelproto.server.program.acknowledgements import AcknowledgementProtocol
        from kernelproto.server.program.header_timeout import HeaderTimeout
    except ImportError as error:
        faults = [str(error)]
    else:
        faults = [*shape_faults(H11Protocol), *shape_faults(WebSocketsSansIOProtocol)]
        if not faults:
            return (
                partial(HeaderTimeout, served=connections, pacer=Pacer()),
                partial(AcknowledgementProtocol, served=connections),
            )
        plain = H11Protocol, WebSocketsSansIOProtocol
    logger.warning(
        "uvicorn %s is not supported (%s): connections are not limited, one client can delay "
        "others with many small chunks or frames, the header of a request has no time limit, and "
        "a client that reconnects without last_msg_id can lose outputs; install another version "
        "of uvicorn",
        version("uvicorn"),
        ", ".join(faults),
    )
    return plain


def shape_faults(protocol: type) -> list[str]:
    """Return the methods and attributes that a protocol of uvicorn lacks, or has differently.

    Args:
        protocol: H11Protocol or WebSocketsSansIOProtocol.
    """
    kind = protocol.__name__
    faults: list[str] = []
    for name, parameters in _METHODS[kind].items():
        method = getattr(protocol, name, None)
        found = tuple(inspect.signature(method).parameters)[1:] if callable(method) else None
        if found != parameters:
            faults.append(f"{kind}.{name}")
    for method_name, attributes in _ATTRIBUTES[kind].items():
        code = getattr(getattr(protocol, method_name, None), "__code__", None)
        names = () if code is None else code.co_names
        faults += [f"{kind}.{name}" for name in attributes if name not in names]
    return faults
