"""Runs a function in a fresh interpreter, for what depends on all that a process has loaded."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

from benchmarks.lab import ROOT
from benchmarks.question import Skipped


def run_alone(function: str, *arguments: object) -> Any:
    """Call ``module:function`` in a process of its own; return its result.

    Args:
        function: of which module, and its name.
        arguments: what JSON can say.

    Raises:
        Skipped: the function has raised it.
    """
    process = subprocess.run(
        [sys.executable, "-m", __name__, function, json.dumps(arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(process.stderr.strip().rpartition("\n")[2])
    answer = json.loads(process.stdout.splitlines()[-1])
    if "skipped" in answer:
        raise Skipped(answer["skipped"])
    return answer["result"]


def main(function: str, arguments: str) -> None:
    """Be the other process."""
    module, _, name = function.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(*json.loads(arguments))
        answer = {"result": result}
    except Skipped as reason:
        answer = {"skipped": str(reason)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
