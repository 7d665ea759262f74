"""PURE: merges a template over the body of a pod, like the strategic merge of Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernelproto.kubernetes.bodies import Body, items, part

# The lists whose items are merged, and the field that identifies an item. All other lists are
# replaced.
_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}

# Lists to which a template adds items.
_ADDED = ("tolerations",)


def merge(base: Body, over: Body) -> dict[str, Any]:
    """Return an object with another one merged over it.

    Mappings are merged. None removes a field. Lists whose items have names, such as containers,
    variables and volumes, are merged by these names. Tolerations are added. Other lists, and all
    other values, are replaced.
    """
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = merge(part(base, key), part(over, key))
        elif key in _ADDED:
            merged[key] = [*items(base, key), *items(over, key)]
        elif key in _KEYS:
            merged[key] = _merged_items(_KEYS[key], items(base, key), items(over, key))
        else:
            merged[key] = value
    return merged


def _merged_items(name: str, base: Sequence[Body], over: Sequence[Body]) -> list[Body]:
    merged = list(base)
    places = {item[name]: place for place, item in enumerate(base) if name in item}
    for item in over:
        place = places.get(item.get(name))
        if place is None:
            merged.append(item)
        else:
            merged[place] = merge(merged[place], item)
    return merged
