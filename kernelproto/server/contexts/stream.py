"""ExecutionStream: the response with the outputs of an execution, as they arrive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio
from anyio.lowlevel import checkpoint
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.remote.events import Disconnected, KeepAlive, encode_event
from kernelproto.server.contexts.runs import Reader
from kernelproto.server.drain import SHUTTING_DOWN, Drain

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

# An event without news shows that the connection works.
KEEP_ALIVE_SECONDS = 15.0

# A client that takes longer to read about 64 KiB has left.
_SEND_SECONDS = 60.0

_REVOKED = "your access has ended: sign in again, or ask the administrator of this server"


class ExecutionStream(Response):
    """The events of an execution, in lines of JSON or as server-sent events.

    The stream ends after the last event, or with the event ``disconnected`` if the user's access is
    revoked or the server ends. A client that disconnects, or does not read for 60 s, has left.

    Args:
        reader: reads the events, and leaves with the client.
        media_type: NDJSON or SSE.
        headers: further headers.
        revoked: returns when the user's access is revoked.
        drain: announces the end of the server.
    """

    def __init__(
        self,
        reader: Reader,
        media_type: str,
        headers: Mapping[str, str],
        *,
        revoked: Callable[[], Awaitable[None]],
        drain: Drain,
    ) -> None:
        super().__init__(
            None, 200, headers={"X-Accel-Buffering": "no", **headers}, media_type=media_type
        )
        del self.headers["content-length"]
        self._reader = reader
        self._framed = _server_sent if media_type == SSE else b"".join
        self._revoked = revoked
        self._drain = drain
        self._reason: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            with self._drain.connection():
                async with background_tasks() as tasks:
                    tasks.start_soon(self._leave_with_client, receive, tasks.cancel_scope)
                    tasks.start_soon(self._end_with, self._revoked, _REVOKED)
                    tasks.start_soon(self._end_with, self._drain.closing.wait, SHUTTING_DOWN)
                    await self._send(send)
        finally:
            self._reader.leave()

    async def _send(self, send: Send) -> None:
        with anyio.move_on_after(_SEND_SECONDS) as sending:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            while not self._reader.at_end:
                lines = self._reader.take()
                ends_early = not lines and self._reason is not None
                if self._reason is not None and ends_early:
                    lines = [encode_event(Disconnected(self._reason))]
                elif not lines:
                    sending.deadline = anyio.current_time() + KEEP_ALIVE_SECONDS + _SEND_SECONDS
                    with anyio.move_on_after(KEEP_ALIVE_SECONDS) as waiting:
                        await self._reader.wait()
                    if not waiting.cancelled_caught:
                        continue
                    lines = [encode_event(KeepAlive())]
                sending.deadline = anyio.current_time() + _SEND_SECONDS
                body = self._framed(lines)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                if ends_early:
                    break
                await checkpoint()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _leave_with_client(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._reader.leave()
        scope.cancel()

    async def _end_with(self, event: Callable[[], Awaitable[object]], reason: str) -> None:
        await event()
        self._reason = reason
        self._reader.wake()


def _server_sent(lines: list[bytes]) -> bytes:
    return b"".join(b"data: " + line + b"\n" for line in lines)
