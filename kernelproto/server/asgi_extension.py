"""The ASGI extension with which a server reports that a client has received a message.

ASGI itself reports no delivery. A server that can do this puts ``EXTENSION`` among the
``extensions`` of a WebSocket's scope. The application may then put an ``OnAcknowledged`` under the
same key of a ``websocket.send`` event. The server calls it when the client has received that
message and all messages before it. Without the extension the application must not set the key.

``program/acknowledgements.py`` implements the extension for uvicorn.
"""

from __future__ import annotations

from collections.abc import Callable

EXTENSION = "kernelproto.acknowledgement"

OnAcknowledged = Callable[[], None]
