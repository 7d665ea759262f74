"""The scripted kernel of tests/integration, launched but not yet taken over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kernelproto import ConnectionInfo, KernelFinder
from kernelproto.interfaces import KernelManager

Launch = Callable[[str], Awaitable[tuple[ConnectionInfo, KernelManager]]]


@pytest.fixture
def launch(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Give a function that launches ``spec/scripted`` with some habits."""
    share = Path(__file__).parents[1] / "integration" / "share"
    monkeypatch.setenv("JUPYTER_PATH", str(share))

    async def launch(habits: str = "") -> tuple[ConnectionInfo, KernelManager]:
        return await KernelFinder.from_entrypoints().launch(
            "spec/scripted", launch_params={"habits": habits, "transport": "ipc"}
        )

    return launch
