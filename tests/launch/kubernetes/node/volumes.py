"""The volumes of a pod as folders, and the pods that a node of the tests refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.launch.kubernetes.node.references import CONFIG_MAP, SECRET, NotThere, entries, field

if TYPE_CHECKING:
    from tests.launch.kubernetes.node.pod import Pod

DEFAULT_MODE = 0o644

# The kinds of volumes, and the sources of the kind "projected".
SOURCES = ("secret", "configMap", "downwardAPI")
KINDS = (*SOURCES, "emptyDir", "projected")


def refusal(manifest: dict) -> str | None:
    """Return the reason why nodes of the tests cannot run a pod, if there is one."""
    spec = manifest["spec"]
    problems = []
    if spec.get("restartPolicy") != "Never":
        problems.append("a restartPolicy other than Never")
    if spec.get("initContainers"):
        problems.append("init containers")
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if "projected" in volume:
            kinds = {kind for source in volume["projected"]["sources"] for kind in source}
        problems += [f"volumes of the kind {kind}" for kind in sorted(kinds.difference(KINDS))]
    for container in spec["containers"]:
        if not container.get("command"):
            problems.append("containers without a command: there are no images")
        if any("subPath" in mount for mount in container.get("volumeMounts", [])):
            problems.append("mounts with a subPath")
    return f"nodes of the tests do not know {', '.join(problems)}" if problems else None


async def fill_volumes(pod: Pod) -> dict[str, str]:
    """Return a folder for each volume, with its files.

    Raises:
        NotThere: a Secret, a ConfigMap or an entry does not exist.
    """
    folders = {}
    for volume in pod.manifest["spec"].get("volumes", []):
        folder = pod.folder / "volumes" / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        folders[volume["name"]] = str(folder)
        projected = volume.get("projected", {})
        for source in projected.get("sources", [volume]):
            async for path, content, mode in _files(pod, source):
                default = source.get("secret") or source.get("configMap") or projected or {}
                if mode is None:
                    mode = projected.get("defaultMode") or default.get("defaultMode")
                _write(folder / path, content, DEFAULT_MODE if mode is None else mode)
    return folders


async def _files(pod: Pod, source: dict) -> AsyncIterator[tuple[str, bytes, int | None]]:
    """Yield the path, the content and the mode of each file that a source has."""
    for kind, key, name_key in (
        (SECRET, "secret", "secretName"),
        (CONFIG_MAP, "configMap", "name"),
    ):
        if reference := source.get(key):
            name = reference.get(name_key) or reference["name"]
            optional = reference.get("optional", False)
            found = await entries(pod, kind, name, optional=optional)
            items = reference.get("items") or [{"key": entry, "path": entry} for entry in found]
            for item in items:
                if item["key"] in found:
                    yield item["path"], found[item["key"]], item.get("mode")
                elif not optional:
                    raise NotThere(f'{kind} "{name}" has no entry {item["key"]}')
    for item in source.get("downwardAPI", {}).get("items", []):
        yield item["path"], field(pod, item["fieldRef"]["fieldPath"]).encode(), item.get("mode")


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    path.write_bytes(content)
    path.chmod(mode)
