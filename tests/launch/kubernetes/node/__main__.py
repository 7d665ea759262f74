"""Run a node: ``python -m tests.launch.kubernetes.node CONFIG``, a JSON file of node.Config."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio

from tests.launch.kubernetes.node.node import Node

if __name__ == "__main__":
    anyio.run(Node(json.loads(Path(sys.argv[1]).read_text())).run)
