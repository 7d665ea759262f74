"""Executed notebooks, made comparable: without all that differs between two executions."""

from __future__ import annotations

import json
import re
from typing import Any

VARYING = [
    (re.compile(r"0x[0-9a-f]{8,}"), "0xADDRESS"),
    (re.compile(r"ipykernel_\d+"), "ipykernel_PID"),
    (re.compile(r"/\d+\.py"), "/NAME.py"),
    (re.compile(r"<dc:date>[^<]*"), "<dc:date>"),
]
MODEL_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


def comparable(nb: Any) -> Any:
    """Return a notebook with times, addresses and ids that are always the same.

    Text that one stream has got in several pieces is joined: how many they are is a matter of time.
    """
    nb = json.loads(json.dumps(nb))
    for cell in nb["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = joined(cell["outputs"])
        cell["metadata"]["execution"] = sorted(cell["metadata"].get("execution", {}))
    for state in nb["metadata"].get("widgets", {}).values():
        state["state"] = list(state["state"].items())  # in the order of their creation
    text = json.dumps(nb, ensure_ascii=False, sort_keys=True)
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    numbers: dict[str, str] = {}
    text = MODEL_ID.sub(lambda id: numbers.setdefault(id[0], f"ID-{len(numbers)}"), text)
    return json.loads(text)


def joined(outputs: list[Any]) -> list[Any]:
    """Return the outputs with neighbouring pieces of a stream joined."""
    page: list[Any] = []
    for output in outputs:
        last = page[-1] if page else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            page.append(output)
    return page
