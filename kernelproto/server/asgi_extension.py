"""The ASGI extension with which a server reports that a client has received a message.

ASGI itself reports no delivery. A server that can do this puts ``EXTENSION`` among the
``extensions`` of a WebSocket's scope. The application may then put an ``OnAcknowledged`` under the
same key of a ``websocket.send`` event. The server calls it when the client has received that
message and all messages before it. Without the extension the application must not set the key.

The value of ``EXTENSION`` in the scope is a dict. It may have the key ``SEND_AT_ONCE``, with a
``SendAtOnce``: a plain function that sends a message of an accepted WebSocket without waiting. The
function returns False, and sends nothing, if the application must send the event ``websocket.send``
instead, because the client is slow or the WebSocket is closing.

``program/acknowledgements.py`` implements the extension for uvicorn.
"""

from __future__ import annotations

from collections.abc import Callable

EXTENSION = "kernelproto.acknowledgement"
SEND_AT_ONCE = "send_at_once"

OnAcknowledged = Callable[[], None]

# Called with the message, which is binary for bytes, and text for a str, and with whether another
# message follows soon: then the acknowledgement may come a few milliseconds later, with the next.
SendAtOnce = Callable[[bytes | str, OnAcknowledged, bool], bool]
