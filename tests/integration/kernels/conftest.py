"""Other people's kernels, as install.py has installed them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.installing import KERNELSPECS


@pytest.fixture(autouse=True)
def scripted_kernel(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Jupyter find these kernels, and not the scripted one."""
    monkeypatch.setenv("JUPYTER_PATH", str(KERNELSPECS.parent))
