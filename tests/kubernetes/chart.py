"""The Helm chart, rendered by a program of the tests: Helm itself is not needed.

``render.go`` renders it with the text/template of Go, as Helm does, and with the few functions of
Helm that the chart uses.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.launch.kubernetes.binaries import cache

CHART = Path(__file__).parents[2] / "deploy" / "helm"

NAMESPACE = "kernels"
GUARD_SECONDS = 100


class RenderingFailed(Exception):
    """A template cannot be rendered; the text has the reason."""


def values() -> dict[str, Any]:
    """Return the default values."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


class Chart:
    """The chart, and the program that renders it.

    Args:
        folder: for the program, which is compiled.

    Skips the test if there is no Go.
    """

    def __init__(self, folder: Path) -> None:
        go = shutil.which("go")
        if go is None:
            pytest.skip(
                "the chart is rendered by Go, which is not installed: run `make kubernetes`"
            )
        self._program = folder / "render"
        build = [go, "build", "-o", self._program, Path(__file__).with_name("render.go")]
        env = {**os.environ, "GO111MODULE": "off", "GOCACHE": str(cache() / "go")}
        done = subprocess.run(build, env=env, capture_output=True, text=True, timeout=GUARD_SECONDS)
        assert done.returncode == 0, done.stderr

    def render(self, *, release: str = "kernelproto", **given: Any) -> list[dict[str, Any]]:
        """Return the objects of the chart.

        Args:
            release: the name of the release.
            given: values that are merged over the defaults.

        Raises:
            RenderingFailed: a template refuses the values.
        """
        about = yaml.safe_load((CHART / "Chart.yaml").read_text())
        data = {
            "Values": _merged(values(), given),
            "Release": {"Name": release, "Namespace": NAMESPACE, "Service": "Helm"},
            "Chart": {"Name": about["name"], "Version": about["version"]},
        }
        files = {path.name: path.read_text() for path in (CHART / "templates").iterdir()}
        done = subprocess.run(
            [self._program],
            input=json.dumps({"Files": files, "Data": data}),
            capture_output=True,
            text=True,
            timeout=GUARD_SECONDS,
        )
        if done.returncode:
            raise RenderingFailed(done.stderr)
        rendered = json.loads(done.stdout)
        bodies = [yaml.safe_load_all(rendered[name]) for name in sorted(rendered)]
        return [body for file in bodies for body in file if body is not None]


def _merged(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(one))
    for name, value in two.items():
        if isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = _merged(merged[name], value)
        else:
            merged[name] = value
    return merged
