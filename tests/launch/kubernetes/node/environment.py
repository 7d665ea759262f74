"""The environment of a container."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.launch.kubernetes.node.references import CONFIG_MAP, SECRET, NotThere, entries, field

if TYPE_CHECKING:
    from tests.launch.kubernetes.node.pod import Pod

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")


async def environment(pod: Pod, spec: dict) -> dict[str, str]:
    """Return the variables of a container.

    Raises:
        NotThere: a Secret, a ConfigMap or an entry does not exist.
    """
    server = urlsplit(pod.node.config["url"])
    home = pod.folder / "home"
    home.mkdir(exist_ok=True)
    variables = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "HOSTNAME": pod.meta["name"],
        "KUBERNETES_SERVICE_HOST": str(server.hostname),
        "KUBERNETES_SERVICE_PORT": str(server.port),
    }
    for source in spec.get("envFrom", []):
        for kind, key in ((SECRET, "secretRef"), (CONFIG_MAP, "configMapRef")):
            if reference := source.get(key):
                optional = reference.get("optional", False)
                found = await entries(pod, kind, reference["name"], optional=optional)
                prefix = source.get("prefix", "")
                variables |= {prefix + name: value.decode() for name, value in found.items()}
    for variable in spec.get("env", []):
        value = await _value(pod, variable, variables)
        if value is not None:
            variables[variable["name"]] = value
    return variables


def expand(text: str, variables: dict[str, str]) -> str:
    """Replace ``$(NAME)`` with the variable's value, and ``$$`` with ``$``."""

    def value(reference: re.Match[str]) -> str:
        if reference[0] == "$$":
            return "$"
        return variables.get(reference[1], reference[0])

    return _REFERENCE.sub(value, text)


async def _value(pod: Pod, variable: dict, variables: dict[str, str]) -> str | None:
    """Return the value of a variable, None if an optional reference has none."""
    source = variable.get("valueFrom")
    if source is None:
        return expand(variable.get("value", ""), variables)
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    for kind, key in ((SECRET, "secretKeyRef"), (CONFIG_MAP, "configMapKeyRef")):
        if reference := source.get(key):
            name, entry = reference["name"], reference["key"]
            optional = reference.get("optional", False)
            found = await entries(pod, kind, name, optional=optional)
            if entry in found:
                return found[entry].decode()
            if optional:
                return None
            raise NotThere(f"couldn't find key {entry} in {kind} {pod.meta['namespace']}/{name}")
    raise NotThere(f"the nodes of the tests do not know the source of {variable['name']}")
