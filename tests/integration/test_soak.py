"""The soak, for a third of a minute; see ``soak`` for a longer one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("no_leaks")

ROOT = Path(__file__).parents[2]


# A few seconds for the users, and time to start, measure and end on a busy machine.
def test_soak() -> None:
    command = [sys.executable, "-m", "tests.integration.soak"]
    options = ["--minutes", "0.3", "--users", "8", "--seed", "1"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
