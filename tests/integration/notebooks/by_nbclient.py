"""Executes notebooks with nbclient: python by_nbclient.py FOLDER NOTEBOOK..."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

AT_ONCE = 3
# nbclient waits for ever for a kernel whose port somebody else has got.
ATTEMPTS = 6
ATTEMPT_SECONDS = 10


async def execute(source: str, turn: asyncio.Semaphore) -> Any:
    async with turn:
        for _ in range(ATTEMPTS):
            nb = nbformat.read(source, as_version=4)
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    await NotebookClient(nb, startup_timeout=ATTEMPT_SECONDS).async_execute()
            except CellExecutionError:
                return nb
            except (RuntimeError, TimeoutError):
                continue
            return nb
        raise SystemExit(f"nbclient cannot execute {source}")


async def main(folder: str, *sources: str) -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    notebooks = await asyncio.gather(*(execute(source, turn) for source in sources))
    for source, nb in zip(sources, notebooks, strict=True):
        # Not by nbformat, which would sort what the kernel has sent in its own order.
        text = json.dumps(nb)
        await asyncio.to_thread(Path(folder, Path(source).name).write_text, text)


asyncio.run(main(*sys.argv[1:]))
