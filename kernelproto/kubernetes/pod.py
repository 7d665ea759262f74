"""PURE: the bodies of the pod, the Secret and the ConfigMap of a kernel."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from kernelproto.kubernetes.bodies import items, part, text
from kernelproto.kubernetes.keys import KeyPair
from kernelproto.kubernetes.merge import merge
from kernelproto.kubernetes.settings import PodKernel

LABEL = "kernelproto.io/kernel"
INSTANCE_LABEL = "kernelproto.io/instance"
LISTED_LABEL = "kernelproto.io/listed-as"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
MANAGER = "kernelproto"

TYPE_NOTE = "kernelproto.io/kernel-type"
OWNER_NOTE = "kernelproto.io/owner"
QUEUE_NOTE = "kernelproto.io/queue-seconds"

CONTAINER = "kernel"

# The parts of the program in the pod, in folders of their own.
_PROGRAM = "/run/kernelproto/program"
_KEYS = "/run/kernelproto/keys"
_WORK = "/run/kernelproto/work"
_ARCHIVE = "host.pyz"
_CERTIFICATE = "tls.crt"
_KEY = "tls.key"

_GRACE_SECONDS = 5

# The host fills this name in; see programs/host/start.py.
CONNECTION_FILE = "{connection_file}"

# Fields that this program needs as they are.
_FIXED_METADATA = ("name", "namespace", "generateName")
_FIXED_SPEC = ("restartPolicy", "hostNetwork", "activeDeadlineSeconds")
_FIXED_CONTAINER = ("image", "command", "args", "ports")


def pod_name(kernel_id: str) -> str:
    """Return the name of the pod and the Secret of a kernel."""
    return f"kernelproto-{kernel_id}"


def program_map(archive: bytes) -> dict[str, Any]:
    """Return the ConfigMap with the program of the host; its name depends on the program."""
    digest = hashlib.sha256(archive).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"kernelproto-host-{digest}", "labels": {MANAGED_LABEL: MANAGER}},
        "binaryData": {_ARCHIVE: base64.b64encode(archive).decode()},
    }


def pod_body(
    kernel: PodKernel,
    kernel_id: str,
    *,
    kernel_type: str,
    instance: str,
    owner: str,
    program: str,
    port: int,
    resources: Mapping[str, Any],
    listed_as: str = "",
) -> dict[str, Any]:
    """Return the pod of a kernel.

    Args:
        kernel: the kernel type.
        kernel_id: a UUID.
        kernel_type: ``provider/name``.
        instance: the programs that share their kernels, as a label.
        owner: the program that launches the kernel, as JSON.
        program: the name of the ConfigMap with the program of the host.
        port: the port of the host.
        resources: the resources of the container.
        listed_as: the id under which other programs find the kernel, a label; "" for *kernel_id*.
    """
    name = pod_name(kernel_id)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": kernel.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [
            kernel.python,
            "-I",
            f"{_PROGRAM}/{_ARCHIVE}",
            f"{_WORK}/host",
            str(port),
            _KEYS,
        ],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "kernelproto", "containerPort": port}],
        "resources": dict(resources),
        "volumeMounts": [
            {"name": "kernelproto-program", "mountPath": _PROGRAM, "readOnly": True},
            {"name": "kernelproto-keys", "mountPath": _KEYS, "readOnly": True},
            {"name": "kernelproto-work", "mountPath": _WORK},
            *kernel.volume_mounts,
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The process of the pause container reaps processes that the kernel leaves behind.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": kernel.user,
            "runAsGroup": kernel.user,
            "fsGroup": kernel.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [*_lost(kernel.lost_seconds), *kernel.tolerations],
        "containers": [container],
        "volumes": [
            {"name": "kernelproto-program", "configMap": {"name": program}},
            {
                "name": "kernelproto-keys",
                "secret": {
                    "secretName": name,
                    "defaultMode": 0o440,
                    "items": [{"key": key, "path": key} for key in (_CERTIFICATE, _KEY)],
                },
            },
            {"name": "kernelproto-work", "emptyDir": {}},
            *kernel.volumes,
        ],
    }
    if kernel.node_selector:
        spec["nodeSelector"] = dict(kernel.node_selector)
    if kernel.service_account is not None:
        spec["serviceAccountName"] = kernel.service_account
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                **kernel.labels,
                **labels_of(kernel_id, instance),
                LISTED_LABEL: listed_as or kernel_id,
            },
            "annotations": {
                TYPE_NOTE: kernel_type,
                OWNER_NOTE: owner,
                QUEUE_NOTE: f"{kernel.queue_seconds:g}",
            },
        },
        "spec": spec,
    }
    return merge(body, kernel.pod)


def labels_of(kernel_id: str, instance: str) -> dict[str, str]:
    """Return the labels of the objects of a kernel."""
    return {MANAGED_LABEL: MANAGER, INSTANCE_LABEL: instance, LABEL: kernel_id}


def secret_body(
    pod: Mapping[str, Any], kernel_id: str, instance: str, pair: KeyPair
) -> dict[str, Any]:
    """Return the Secret of a kernel; Kubernetes removes it together with the pod.

    Args:
        pod: the pod, which exists.
        kernel_id: a UUID.
        instance: as for pod_body().
        pair: the certificate and key of the kernel.
    """
    about = pod["metadata"]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": about["name"], "uid": about["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": about["name"],
            "labels": labels_of(kernel_id, instance),
            "ownerReferences": [owner],
        },
        "data": {
            _CERTIFICATE: base64.b64encode(pair.certificate.encode()).decode(),
            _KEY: base64.b64encode(pair.key.encode()).decode(),
        },
    }


def key_pair_of(secret: Mapping[str, Any]) -> KeyPair:
    """Return the certificate and key in a Secret.

    Raises:
        ValueError: the Secret has none.
    """
    try:
        certificate, key = (
            base64.b64decode(secret["data"][name]).decode() for name in (_CERTIFICATE, _KEY)
        )
    except (LookupError, TypeError) as error:
        raise ValueError(f"the Secret has no {error}") from error
    return KeyPair(certificate, key)


def template_fault(kernel: PodKernel) -> str | None:
    """Return why the template of a kernel type cannot be used; None if it can."""
    template = kernel.pod
    for key, value in template.items():
        if key not in ("metadata", "spec") or not isinstance(value, Mapping):
            return f"'pod' has a field {key!r}; it takes the mappings 'metadata' and 'spec'"
    for key, fixed in (("metadata", _FIXED_METADATA), ("spec", _FIXED_SPEC)):
        for name in fixed:
            if name in part(template, key):
                return f"'pod' cannot change the field {key}.{name}"
    for key in ("labels", "annotations"):
        for name in part(template, "metadata", key):
            if name.startswith("kernelproto.io/") or name == MANAGED_LABEL:
                return f"'pod' cannot change the {key} {name!r}"
    for container in items(part(template, "spec"), "containers"):
        if not text(container, "name"):
            return "'pod' has a container without a name"
        for name in _FIXED_CONTAINER:
            if text(container, "name") == CONTAINER and name in container:
                return f"'pod' cannot change the field {name!r} of the container {CONTAINER!r}"
    return None


def _lost(seconds: int) -> list[dict[str, Any]]:
    """Return the tolerations with which a pod is deleted so long after its node was lost."""
    return [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": seconds,
        }
        for state in ("not-ready", "unreachable")
    ]
