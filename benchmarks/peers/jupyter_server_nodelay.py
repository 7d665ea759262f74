"""jupyter_server with TCP_NODELAY on its WebSockets.

Without the option, each round trip waits up to 40 ms for a delayed acknowledgement; see
docs/explanation/upstream.md.
"""

from __future__ import annotations

from jupyter_server.serverapp import main
from jupyter_server.services.kernels import handlers
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler


class _WithoutDelay(KernelWebsocketHandler):
    async def open(self, kernel_id: str) -> None:
        self.set_nodelay(True)
        await super().open(kernel_id)


if __name__ == "__main__":
    handlers.default_handlers[:] = [
        (route, _WithoutDelay if handler is KernelWebsocketHandler else handler)
        for route, handler in handlers.default_handlers
    ]
    main()
