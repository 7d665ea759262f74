"""PURE: the errors of the Kubernetes API, and the states of pods in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

from kernelproto.exceptions import LaunchError
from kernelproto.interfaces import DeathCause
from kernelproto.kubernetes.bodies import Body, items, part, text

ApiFault: TypeAlias = Literal[
    "forbidden",
    "unauthorized",
    "quota",
    "admission",
    "invalid",
    "missing",
    "conflict",
    "expired",
    "busy",
    "unreachable",
    "other",
]

_MOST_QUOTED = 600
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]")

# The text of RBAC: User "x" cannot create resource "pods" in API group "" in the namespace "y"
_RIGHT = re.compile(
    r'User "([^"]*)" cannot (\w+) resource "([^"]*)"(?: in API group "[^"]*")?'
    r'(?: in the namespace "([^"]*)")?'
)
_QUOTA = re.compile(r"exceeded quota: (.*)", re.DOTALL)

_FAULTS: Mapping[int, ApiFault] = {
    400: "invalid",
    401: "unauthorized",
    403: "admission",
    404: "missing",
    409: "conflict",
    410: "expired",
    422: "invalid",
    429: "busy",
    500: "busy",
    502: "busy",
    503: "busy",
    504: "busy",
}

# An image that cannot be named or is never pulled stays missing.
_HOPELESS = ("InvalidImageName", "ErrImageNeverPull", "CreateContainerError", "RunContainerError")
_IMAGE_ERRORS = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable")

# Exit statuses above this stand for signals.
_SIGNALS = 128
_MOST_SIGNALS = 64

# How a container ends if its pod is deleted: by itself after SIGTERM, by SIGTERM, or by SIGKILL.
_ENDS_OF_DELETED = (0, -15, -9)


class KubernetesError(LaunchError):
    """The Kubernetes API has refused a call, or cannot be reached.

    Attributes:
        fault: the kind of the fault: this program lacks a right ("forbidden") or has no valid
            credentials ("unauthorized"), a quota of the namespace is used up, an admission plug-in
            refuses the object, the object is invalid, missing or exists already, the version of a
            watch has expired, the API is busy, or it cannot be reached.
        status: the status of the HTTP response, 0 without one.
    """

    def __init__(self, message: str, *, fault: ApiFault = "other", status: int = 0) -> None:
        super().__init__(message)
        self.fault: ApiFault = fault
        self.status = status


def api_error(action: str, status: int, message: str) -> KubernetesError:
    """Return the exception for a response with an error.

    Args:
        action: the call in words, such as "cannot create pod 'a'".
        status: the status of the HTTP response.
        message: the message of the API.
    """
    fault = _FAULTS.get(status, "other")
    quoted = quote(message)
    if status == 403 and (right := _RIGHT.search(message)):
        user, verb, resource, namespace = right.groups()
        where = f" in the namespace {namespace!r}" if namespace else ""
        quoted = (
            f"{user!r} may not {verb} {resource}{where}: grant this right by a Role, see "
            "deploy/kubernetes/rbac.yaml"
        )
        fault = "forbidden"
    elif status == 403 and (quota := _QUOTA.search(message)):
        quoted = (
            f"the quota of the namespace is used up ({quote(quota[1])}): end other kernels, ask "
            "for less, or raise the ResourceQuota"
        )
        fault = "quota"
    elif status == 401:
        quoted = f"the API refuses the credentials of this program ({quoted}): renew them"
    return KubernetesError(f"{action}: {quoted}", fault=fault, status=status)


def quote(text: object) -> str:
    """Return a text of the cluster on one line, shortened."""
    words = _UNPRINTABLE.sub(" ", str(text)).strip()
    return words if len(words) <= _MOST_QUOTED else f"{words[:_MOST_QUOTED]}..."


class Pending(str):
    """The reason in words why a pod does not run yet.

    Attributes:
        is_hopeless: whether it will never run.
        of_image: whether its image cannot be pulled.
    """

    is_hopeless = False
    of_image = False

    @classmethod
    def of(cls, words: str, *, is_hopeless: bool = False, of_image: bool = False) -> Pending:
        """Return the words, with the kind of the reason."""
        reason = cls(words)
        reason.is_hopeless = is_hopeless
        reason.of_image = of_image
        return reason


def pending_reason(pod: Body) -> Pending:
    """Return why a pod does not run yet."""
    for container in _containers(pod):
        waiting = part(container, "state", "waiting")
        reason, message = text(waiting, "reason"), text(waiting, "message")
        words = f"{reason}: {quote(message)}" if message else reason
        if reason in _IMAGE_ERRORS or reason in _HOPELESS:
            image = quote(text(container, "image"))
            return Pending.of(
                f"its image {image!r} cannot be started ({words})",
                is_hopeless=reason in _HOPELESS,
                of_image=True,
            )
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return Pending.of(f"its container waits ({words})")
    scheduled = _condition(pod, "PodScheduled")
    if text(scheduled, "status") == "False":
        return Pending.of(
            f"no node can run it ({quote(text(scheduled, 'message')) or 'no reason'})"
        )
    node = quote(text(pod, "spec", "nodeName"))
    if not node:
        return Pending.of("it waits for a node")
    return Pending.of(f"node {node!r} prepares its container, volumes and image")


def runs(pod: Body) -> bool:
    """Return whether the container of a kernel was started and has an address."""
    return text(pod, "status", "phase") == "Running" and bool(text(pod, "status", "podIP"))


class PodEnd:
    """How a pod has ended.

    Attributes:
        words: the reason in words.
        cause: the kind of the reason.
        returncode: the exit status of the program of the host, negative for a signal; None if it is
            unknown.
    """

    def __init__(
        self, words: str, cause: DeathCause = "other", returncode: int | None = None
    ) -> None:
        self.words = words
        self.cause: DeathCause = cause
        self.returncode = returncode


def pod_end(pod: Body | None) -> PodEnd | None:
    """Return how a pod has ended; None while it may run.

    A pod that is to be deleted, on a node that is not ready, has ended: its node will not report
    the end. The host in it ends the kernel after its linger time.

    Args:
        pod: the pod; None if it does not exist.
    """
    if pod is None:
        return PodEnd("its pod was deleted")
    is_deleted = bool(text(pod, "metadata", "deletionTimestamp"))
    said = [text(pod, "status", key) for key in ("reason", "message")]
    words = quote(": ".join(filter(None, said)))
    node = quote(text(pod, "spec", "nodeName"))
    if text(pod, "status", "phase") in ("Succeeded", "Failed"):
        for container in _containers(pod):
            ended = part(container, "state", "terminated")
            code = int(ended.get("exitCode") or 0)
            is_signal = _SIGNALS < code <= _SIGNALS + _MOST_SIGNALS
            returncode = _SIGNALS - code if is_signal else code
            if text(ended, "reason") == "OOMKilled":
                reason = "its pod used more than its memory limit (OOMKilled)"
                return PodEnd(reason, "memory_limit", returncode)
            if is_deleted and returncode in _ENDS_OF_DELETED:
                return PodEnd("its pod was deleted", "other", returncode)
            if ended and not words:
                reason = quote(text(ended, "message") or text(ended, "reason")) or "no reason"
                return PodEnd(f"its pod has ended ({reason})", "other", returncode)
        return PodEnd(f"its pod has ended ({words or 'no reason'})")
    if is_deleted and (words.startswith("NodeLost") or node_problem(pod)):
        return PodEnd(f"its node {node!r} was lost")
    return None


def node_problem(pod: Body) -> str | None:
    """Return why the node of a running pod counts as lost, None if it does not.

    The controller of the nodes sets the condition Ready of a pod to False, although its container
    counts as running.
    """
    if not runs(pod) or text(_condition(pod, "Ready"), "status") == "True":
        return None
    containers = items(part(pod, "status"), "containerStatuses")
    if all(each.get("ready") and "running" in part(each, "state") for each in containers):
        return f"its node {quote(text(pod, 'spec', 'nodeName'))!r} is not ready"
    return None


def _containers(pod: Body) -> list[Body]:
    """Return the statuses of the containers of a pod; that of the kernel is the first."""
    status = part(pod, "status")
    found = items(status, "containerStatuses")
    found.sort(key=lambda container: container.get("name") != "kernel")
    return [*found, *items(status, "initContainerStatuses")]


def _condition(pod: Body, kind: str) -> Body:
    for condition in items(part(pod, "status"), "conditions"):
        if text(condition, "type") == kind:
            return condition
    return {}
