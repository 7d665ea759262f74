"""Many clients of one peer at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.peers import Client, Peer


@asynccontextmanager
async def connected(peer: Peer, files: Sequence[Path]) -> AsyncGenerator[list[Client]]:
    """Give a client for the kernel of each connection file."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(peer.connect(file)) for file in files]
