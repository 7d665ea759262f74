"""Choosing the provisioner kernelproto in the kernel.json of a kernelspec."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from tempfile import mkstemp
from typing import Any, cast

from kernelproto.exceptions import DiscoveryError, InvalidKernelSpec
from kernelproto.launch.spec.kernelspec import find_kernelspecs, read_kernelspec
from kernelproto.launch.spec.naming import no_such_kernel

PROVISIONER = "kernelproto"

_KEY = "kernel_provisioner"
_OTHER_WAY = (
    "instead, set JUPYTER_DEFAULT_PROVISIONER_NAME=kernelproto, which applies to every kernelspec "
    "that names no provisioner"
)


def enable_provisioner(name: str) -> str:
    """Have programs that use jupyter_client launch a kernelspec with kernelproto.

    Args:
        name: the name of the kernelspec, in any case.

    Returns:
        The path of the kernel.json, which names the provisioner now.

    Raises:
        NoSuchKernel: the kernelspec does not exist.
        InvalidKernelSpec: the kernelspec cannot be used, or names another launcher.
        DiscoveryError: the kernel.json cannot be written.
    """
    path, entries = _read(name)
    metadata: dict[str, Any] = entries.setdefault("metadata", {})
    stanza: dict[str, Any] = metadata.get(_KEY) or {}
    if stanza.get("provisioner_name") != PROVISIONER:
        metadata[_KEY] = {"provisioner_name": PROVISIONER}
        _write(path, entries)
    return path


def disable_provisioner(name: str) -> str:
    """Undo enable_provisioner(); arguments, result and exceptions as there."""
    path, entries = _read(name)
    if entries.get("metadata", {}).pop(_KEY, None) is not None:
        _write(path, entries)
    return path


def _read(name: str) -> tuple[str, dict[str, Any]]:
    """Return the path and the entries of a kernel.json that may name this provisioner."""
    folders = find_kernelspecs()
    folder = folders.get(name.lower())
    if folder is None:
        raise no_such_kernel(name, folders, remedy="install its kernelspec first")
    kernelspec = read_kernelspec(name.lower(), folder)
    if _is_elsewhere(kernelspec.metadata.get(_KEY)):
        raise kernelspec.launch_fault() or InvalidKernelSpec(
            f"{kernelspec.path}: 'metadata.{_KEY}' is not valid", path=kernelspec.path
        )
    with open(kernelspec.path, encoding="utf-8-sig") as file:
        return kernelspec.path, json.load(file)


def _is_elsewhere(stanza: object) -> bool:
    """Return whether the metadata of a kernelspec names another provisioner than those here."""
    if not isinstance(stanza, Mapping):
        return stanza is not None
    name = cast("Mapping[str, object]", stanza).get("provisioner_name", PROVISIONER)
    return name not in (PROVISIONER, "local-provisioner")


def _write(path: str, entries: dict[str, Any]) -> None:
    """Replace a kernel.json, or the target of a symbolic link, atomically."""
    target = os.path.realpath(path)
    try:
        with ExitStack() as undo:
            descriptor, draft = mkstemp(dir=os.path.dirname(target), prefix=".kernel-")
            undo.callback(os.unlink, draft)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=1, ensure_ascii=False)
                file.write("\n")
            shutil.copymode(target, draft)
            os.replace(draft, target)
            undo.pop_all()
    except OSError as error:
        raise DiscoveryError(f"cannot write {target!r}: {error.strerror}; {_OTHER_WAY}") from error
