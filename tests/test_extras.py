from __future__ import annotations

import re
import tomllib
from pathlib import Path

from kernelproto.extras import DISTRIBUTIONS, EXTRAS


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    imported = {distribution: name for name, distribution in DISTRIBUTIONS.items()}
    lines = project["optional-dependencies"]
    for extra, names in EXTRAS.items():
        brought = {re.split(r"[>\[]", line)[0] for line in lines.pop(extra)}
        brought = {imported.get(name, name) for name in brought}
        assert brought == ({"anyio"} if extra == "trio" else set(names))  # which asks for trio
    assert set(lines) == {"all"}
