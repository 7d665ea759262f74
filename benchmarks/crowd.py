"""Many concurrent clients of one peer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.peers import Client, Peer


@asynccontextmanager
async def connected(peer: Peer, files: Sequence[Path]) -> AsyncGenerator[list[Client]]:
    """Yield one client per connection file."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(peer.connect(file)) for file in files]
