"""A client for libraries that return raw frames: ``frames.Wire`` verifies and decodes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import anyio

from benchmarks.peers.frames import DELIMITER, Frames, Wire, text_of
from benchmarks.peers.peer import Streamed, since

OUTPUTS = frozenset(("stream", "display_data", "execute_result"))


class DecodingClient(ABC):
    """A client over a source of raw frames."""

    def __init__(self, info: dict[str, Any]) -> None:
        self._wire = Wire(info)

    @abstractmethod
    async def send(self, frames: list[bytes]) -> None:
        """Send on shell."""

    @abstractmethod
    async def receive(self) -> Frames:
        """Receive from iopub."""

    @abstractmethod
    async def receive_reply(self) -> Frames:
        """Receive from shell."""

    async def wait_for_ready(self) -> None:
        while True:
            await self.send(self._wire.request("kernel_info_request", {}))
            await self.receive_reply()
            with anyio.move_on_after(0.2):
                await self.receive()
                break
        with anyio.move_on_after(0.1):
            while True:
                await self.receive()

    async def execute(self, code: str) -> int:
        await self.send(self._wire.execute_request(code))
        count, _, _ = await self._finish()
        return count

    async def stream(self, code: str) -> Streamed:
        await self.send(self._wire.execute_request(code))
        count, _, began = await self._finish()
        return Streamed(count, since(began))

    async def buffers(self, code: str) -> Streamed:
        await self.send(self._wire.execute_request(code))
        _, size, began = await self._finish()
        return Streamed(size, since(began))

    async def pipeline(self, code: str, count: int) -> None:
        for _ in range(count):
            await self.send(self._wire.execute_request(code))
        for _ in range(count):
            await self._finish()

    async def _finish(self) -> tuple[int, int, str | None]:
        began, count, size = None, 0, 0
        while True:
            frames = await self.receive()
            header, _, content = self._wire.decode(frames)
            if header["msg_type"] in OUTPUTS:
                count += 1
                began = began or text_of(content)
                size += sum(map(len, frames[frames.index(DELIMITER) + 6 :]))
            elif content.get("execution_state") == "idle":
                break
        self._wire.decode(await self.receive_reply())
        return count, size, began
