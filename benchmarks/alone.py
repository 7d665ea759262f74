"""Run a function in a fresh interpreter, for measurements that depend on the loaded modules."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

from benchmarks.exceptions import Skipped
from benchmarks.lab import ROOT


def run_alone(function: str, *arguments: object) -> Any:
    """Call ``module:function`` in a new process; return its result.

    Args:
        function: module and name of the function.
        arguments: values that JSON can represent.

    Raises:
        Skipped: the function raised it.
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
    """Run in the new process."""
    module, _, name = function.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(*json.loads(arguments))
        answer = {"result": result}
    except Skipped as reason:
        answer = {"skipped": str(reason)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
