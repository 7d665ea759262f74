"""Other people's kernels, as install.py has installed them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

INSTALLED = Path(
    os.environ.get("KERNELPROTO_KERNELS")
    or Path(__file__).resolve().parents[3] / ".venv" / "kernels"
)


@pytest.fixture(autouse=True)
def scripted_kernel(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Jupyter find these kernels, and not the scripted one."""
    monkeypatch.setenv("JUPYTER_PATH", str(INSTALLED / "share" / "jupyter"))


@pytest.fixture
def installed() -> Path:
    """The folder of the kernelspecs."""
    return INSTALLED / "share" / "jupyter" / "kernels"
