from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kernelproto.launch.process.interpreter import interpreter_settings, own_ipykernel
from kernelproto.launch.programs import ipykernel

OPTION = "-Xfrozen_modules=off"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "ipykernel_launcher", "-f", "a.json"],
        [OPTION, "-m", "ipykernel_launcher", "-f", "a.json"],
        ["-X", "frozen_modules=off", "-m", "ipykernel_launcher", "-f", "a.json"],
        ["-m", "ipykernel", "-f", "a.json"],
    ],
)
def test_own_ipykernel(arguments: list[str]) -> None:
    command = own_ipykernel([sys.executable, *arguments])
    assert command == [sys.executable, OPTION, ipykernel.__file__, "-f", "a.json"]


@pytest.mark.parametrize(
    "command",
    [
        ["bash", "-m", "ipykernel_launcher", "-f", "a.json"],
        ["/no/such/python", "-m", "ipykernel_launcher", "-f", "a.json"],
        [sys.executable, "-E", "-m", "ipykernel_launcher", "-f", "a.json"],
        [sys.executable, "-m", "bash_kernel", "-f", "a.json"],
        [sys.executable],
    ],
)
def test_other_programs(command: list[str]) -> None:
    assert own_ipykernel(command) is None


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_python_of_another_environment(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(os.path.realpath(sys.executable))
    command = [str(tmp_path / "python"), "-m", "ipykernel_launcher", "-f", "a.json"]
    assert own_ipykernel(command) is None


def test_settings_that_are_read_at_the_start() -> None:
    settings = {"PYTHONPATH": "a", "LD_LIBRARY_PATH": "b"}
    assert interpreter_settings({**settings, "PATH": "c", "MY_PYTHON": "d"}) == settings
