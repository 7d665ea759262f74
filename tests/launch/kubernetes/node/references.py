"""The Secrets, ConfigMaps and fields that pods refer to."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from tests.launch.kubernetes.node.pod import Pod

SECRET, CONFIG_MAP = "secret", "configmap"

_ENTRY = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


class NotThere(Exception):
    """A pod refers to an object or an entry that does not exist; the text says which."""


async def entries(pod: Pod, kind: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
    """Return the entries of a Secret or a ConfigMap.

    Raises:
        NotThere: it does not exist, and is not optional.
    """
    path = f"/api/v1/namespaces/{pod.meta['namespace']}/{kind}s/{name}"
    status, found = await pod.node.client.insist("GET", path)
    # The API server lets a node read a new pod's secrets as soon as it has seen the pod.
    if status != httpx.codes.OK and not optional:
        raise NotThere(f'{kind} "{name}" not found')
    if status != httpx.codes.OK:
        return {}
    binary = found.get("data" if kind == SECRET else "binaryData") or {}
    texts = {} if kind == SECRET else found.get("data") or {}
    return {
        **{key: base64.b64decode(value) for key, value in binary.items()},
        **{key: value.encode() for key, value in texts.items()},
    }


def field(pod: Pod, path: str) -> str:
    """Return a field of a pod, such as ``status.podIP``.

    Raises:
        NotThere: nodes of the tests do not know the field.
    """
    meta, spec = pod.meta, pod.manifest["spec"]
    if found := _ENTRY.fullmatch(path):
        return meta.get(found[1], {}).get(found[2], "")
    fields: Mapping[str, str] = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": pod.node.name,
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": "127.0.0.1",
        "status.podIP": pod.address,
        "status.podIPs": pod.address,
    }
    if path not in fields:
        raise NotThere(f"the nodes of the tests do not know the field {path}")
    return fields[path]
