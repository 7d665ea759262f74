"""The documentation says what is there."""

from __future__ import annotations

import re
from pathlib import Path

from kernelproto.wire.content import CONTENT_TYPES

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "messages.md").read_text("utf-8")
TESTS = (ROOT / "tests" / "integration" / "test_specification.py").read_text("utf-8")


def test_every_message_type_is_in_the_table_of_messages() -> None:
    assert set(CONTENT_TYPES) - set(re.findall(r"`(\w+)`", TABLE)) == set()


def test_every_test_that_the_table_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE))

    assert named
    assert named - set(re.findall(r"^async def (test_\w+)", TESTS, re.MULTILINE)) == set()
