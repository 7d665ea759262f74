"""``python -m kernelproto.server`` without the packages of the extra."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kernelproto.extras import EXTRAS


@pytest.mark.parametrize("missing", ["starlette", "h11", "prometheus_client", "websockets"])
def test_missing_packages_are_named_in_one_line(missing: str) -> None:
    program = (
        f"import runpy, sys; sys.modules[{missing!r}] = None; "
        "runpy.run_module('kernelproto.server', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr == f'error: {missing} cannot be imported: pip install "kernelproto[server]"\n'
    )


def test_needed_packages_are_those_of_the_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    installed = project["optional-dependencies"]["server"]
    assert set(EXTRAS["server"]) == {line.partition(">")[0] for line in installed}
