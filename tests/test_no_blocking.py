from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from blockbuster import BlockingError

from kernelproto.launch.own_files import folder_fault

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("no_blocking")]


async def test_blocking_call_of_the_package_is_found(tmp_path: Path) -> None:
    with pytest.raises(BlockingError, match=r"os\.stat"):
        folder_fault(str(tmp_path), private=False)


async def test_blocking_call_of_a_test_is_allowed(tmp_path: Path) -> None:
    assert os.stat(tmp_path)
    logging.getLogger("kernelproto").warning("written by a handler")
