"""Removing the containers and folders of kernels whose programs have ended.

Each container has labels with the user and the folder of its kernel, and each folder has a record
with the owner of the kernel. A kernel is left over if the owner has ended, and if the kernel was
not launched detached or has ended.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio.to_thread

from kernelproto.exceptions import DiscoveryError
from kernelproto.launch.container.container import LABEL, remove
from kernelproto.launch.container.engine import Engine, EngineError
from kernelproto.launch.leftovers.kernel_folder import KernelFolder
from kernelproto.launch.own_files import leave_alone

logger = logging.getLogger(__name__)

_FOLDER_LABEL = f"{LABEL}.folder"
_USER_LABEL = f"{LABEL}.user"


def labels_of(folder: KernelFolder) -> dict[str, str]:
    """Return the labels of the container of a kernel."""
    return {
        LABEL: folder.record.kernel_id,
        _FOLDER_LABEL: folder.path,
        _USER_LABEL: this_user(),
    }


def this_user() -> str:
    """Return the user of this program on this machine, as a label."""
    machine = os.uname().nodename
    return f"{os.getuid()}@{machine}"


async def remove_leftovers(engine: Engine, base: str) -> int:
    """Remove the containers and folders of kernels whose programs have ended.

    Args:
        engine: the engine.
        base: the folder with the folders of the kernels.

    Returns:
        The number of kernels that were removed.

    Raises:
        EngineError: the engine cannot be used.
    """
    # The folders first: each folder is made before the container.
    folders = await anyio.to_thread.run_sync(lambda: list(KernelFolder.all_in(base)))
    names = await engine.call("ps", "--all", "--quiet", "--no-trunc", f"--filter=label={LABEL}")
    containers = await engine.inspect(*names.split()) if names.split() else []
    removed = 0
    with_container: set[str] = set()
    for about in containers:
        labels: Mapping[str, str] = about["Config"].get("Labels") or {}
        with_container.add(labels[LABEL])
        if labels.get(_USER_LABEL) == this_user() and await _is_left(labels, about["State"]):
            removed += await _remove(engine, str(about["Id"]), labels)
    for folder in folders:
        if folder.record.kernel_id not in with_container:
            removed += await anyio.to_thread.run_sync(_remove_folder, folder)
    return removed


async def _is_left(labels: Mapping[str, str], state: Mapping[str, Any]) -> bool:
    """Return whether a container is left over; if so, this program has claimed the container."""

    def claim() -> bool:
        path = labels.get(_FOLDER_LABEL, "")
        try:
            folder = KernelFolder.open(path)
        except DiscoveryError as error:
            if os.path.lexists(path):
                leave_alone(path, error)
                return False
            return True  # without the folder no program can reach the kernel
        runs = bool(state.get("Running"))
        return not (runs and folder.record.detached) and folder.ownership.claim_leftover()

    return await anyio.to_thread.run_sync(claim)


async def _remove(engine: Engine, container_id: str, labels: Mapping[str, str]) -> bool:
    try:
        await remove(engine, container_id)
    except EngineError as error:
        logger.warning("the container %s was left behind: %s", container_id, error)
        return False

    def remove_folder() -> None:
        with suppress(DiscoveryError):
            KernelFolder.open(labels.get(_FOLDER_LABEL, "")).remove()

    await anyio.to_thread.run_sync(remove_folder)
    logger.info("removed the container of kernel %s, whose program has ended", labels[LABEL])
    return True


def _remove_folder(folder: KernelFolder) -> bool:
    """Remove a folder without a container, if the owner has ended."""
    if not folder.ownership.claim_leftover():
        return False
    folder.remove()
    return True
