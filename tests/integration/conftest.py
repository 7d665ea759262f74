"""Kernels to talk to: ``pyimport/kernel``, and ``spec/scripted``, which misbehaves on request."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def scripted_kernel(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install ``spec/scripted``; see share/kernels/scripted/kernel.py."""
    monkeypatch.setenv("JUPYTER_PATH", str(Path(__file__).with_name("share")))


@pytest.fixture
def write_kernelspec() -> Callable[..., None]:
    """Give a function that installs one more kernelspec for the user of this test."""

    def write(name: str, **entries: object) -> None:
        folder = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", name)
        folder.mkdir(parents=True)
        folder.joinpath("kernel.json").write_text(json.dumps(entries))

    return write
