"""PURE: reading the objects of Kubernetes, whose fields may all be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

Body: TypeAlias = Mapping[str, Any]


def part(body: Body, *keys: str) -> Body:
    """Return a mapping in an object by its path; an empty one if there is none."""
    for key in keys:
        value = body.get(key)
        body = cast(Body, value) if isinstance(value, Mapping) else {}
    return body


def items(body: Body, key: str) -> list[Body]:
    """Return the mappings in a list of an object."""
    found = body.get(key)
    return [part({"": item}, "") for item in cast("list[Any]", found or [])]


def text(body: Body, *keys: str) -> str:
    """Return a text in an object by its path; "" if there is none."""
    value = part(body, *keys[:-1]).get(keys[-1])
    return "" if value is None else str(value)
