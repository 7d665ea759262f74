"""Removing the pods of launches and programs that have ended.

The host in a running pod ends its kernel after the linger time, and itself after its last kernel.
Until then a program may adopt the kernel. So only these pods are removed here: those that have
ended, those that have not run in the time of the launch, and those of lost nodes.
"""

from __future__ import annotations

import logging
from datetime import datetime

import msgspec

from kernelproto.kubernetes.api import Api, Connection
from kernelproto.kubernetes.bodies import Body, items, part, text
from kernelproto.kubernetes.failures import KubernetesError, pod_end, runs
from kernelproto.kubernetes.pod import INSTANCE_LABEL, LABEL, OWNER_NOTE, QUEUE_NOTE
from kernelproto.launch.process.process_id import ProcessId

logger = logging.getLogger(__name__)

# The owner of a pod notices its end in this time, and the end of its wait for the pod.
_MARGIN_SECONDS = 120.0


async def remove_leftovers(api: Api, instance: str) -> int:
    """Remove pods that no program needs; their Secrets go with them.

    Args:
        api: the API.
        instance: the programs that share their kernels.

    Returns:
        The number of pods that were removed.

    Raises:
        KubernetesError: the API refuses the calls.
    """
    removed = 0
    async with api.connected() as connection:
        for pod in await connection.list("pods", f"{INSTANCE_LABEL}={instance},{LABEL}"):
            if _is_left(pod, connection.now):
                removed += await _remove(connection, pod)
    return removed


async def _remove(connection: Connection, pod: Body) -> bool:
    about = pod["metadata"]
    try:
        # The node of a pod that is to be deleted already is lost.
        grace = 0 if about.get("deletionTimestamp") else None
        await connection.delete("pods", about["name"], about["uid"], grace=grace)
    except KubernetesError as error:
        logger.warning("pod %s is left behind: %s", about["name"], error)
        return False
    logger.info("removed pod %s, which no program needs", about["name"])
    return True


def _is_left(pod: Body, now: float) -> bool:
    end = pod_end(pod)
    if text(pod, "metadata", "deletionTimestamp"):
        return end is not None
    if end is None and runs(pod):
        return False
    owner = owner_of(pod)
    if owner is not None and owner.is_gone:
        return True
    since = _ended_at(pod) if end is not None else None
    if since is not None:
        return now > since + _MARGIN_SECONDS
    try:
        queue_seconds = float(text(pod, "metadata", "annotations", QUEUE_NOTE))
    except ValueError:
        return False
    made = seconds_of(text(pod, "metadata", "creationTimestamp"))
    return now > made + queue_seconds + _MARGIN_SECONDS


def owner_of(pod: Body) -> ProcessId | None:
    """Return the program that has launched the kernel of a pod; None if unknown."""
    try:
        return msgspec.json.decode(text(pod, "metadata", "annotations", OWNER_NOTE), type=ProcessId)
    except ValueError:
        return None


def _ended_at(pod: Body) -> float | None:
    """Return when the last container has ended, in seconds since the epoch; None if unknown."""
    statuses = items(part(pod, "status"), "containerStatuses")
    times = [text(each, "state", "terminated", "finishedAt") for each in statuses]
    return max((seconds_of(time) for time in times if time), default=None)


def seconds_of(time: str) -> float:
    """Return a time of Kubernetes in seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()
