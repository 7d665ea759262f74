"""The settings of kernels in pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from kernelproto.launch.spec.configuration import ConfiguredKernels, KernelSettings
from kernelproto.launch.spec.parameters import Argument

Image = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:/@-]{0,1023}\Z")]
Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9]([a-z0-9.-]*[a-z0-9])?\Z", max_length=253)]
Label = Annotated[
    str, msgspec.Meta(pattern=r"\A(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?\Z", max_length=63)
]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=10**8)]
Linger = Annotated[float, msgspec.Meta(ge=5, le=10**8)]
User = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Port = Annotated[int, msgspec.Meta(ge=1024, le=65535)]

# The launch parameters of kernel types without a schema in the settings.
DEFAULT_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "cpu": {"type": ["number", "string"]},
        "memory": {"type": ["integer", "string"]},
        "gpu": {"type": "integer", "minimum": 1},
    },
}


class PodKernel(KernelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kernel type that runs in a pod.

    Args:
        image: the name of the image, which must have Python 3.9 or newer.
        command: the command line in the pod; ``{connection_file}`` is filled in. The kernel must
            support ipc sockets, as ipykernel does.
        display_name: for people.
        language: the programming language.
        interrupt_mode: ``"signal"``, or ``"message"`` for an interrupt_request.
        env: environment variables, in addition to those of the image and of *pod*.
        python: the Python of the image that runs the first process of the pod.
        resources: the ``resources`` of the container, with ``requests`` and ``limits``.
        node_selector: the labels that a node must have.
        tolerations: the taints of nodes that pods tolerate, as in a pod.
        service_account: the name of a service account. Its token is not mounted unless *pod* says
            so.
        volumes: the volumes of the pod, as in a pod.
        volume_mounts: the mounts of the container, as in a pod.
        labels: labels of pods, for example for a NetworkPolicy.
        pod: fields of the pod, ``metadata`` and ``spec``, which are merged over those that this
            program makes; see ``merge``. The container of the kernel has the name ``kernel``.
        user: the number of the user and the group in the pod.
        cwd: ``"launch"`` takes the working directory of a launch as a folder in the pod;
            ``"image"`` takes that of the image in any case, for servers whose folders are not in
            the pods.
        schema: a JSON Schema for the launch parameters ``cpu``, ``memory`` and ``gpu``, which
            replace *resources*. A parameter that it does not declare cannot be given.
        gpu_resource: the name of the resource for the launch parameter ``gpu``.
        linger: seconds that the kernel goes on when its program has ended; a launch with
            ``detached`` has no such limit.
        queue_seconds: seconds until a pod runs after which a launch gives up. After that time other
            programs may remove the pod, if it does not run.
        image_seconds: seconds after which a launch gives up whose image cannot be pulled.
        start_seconds: seconds from the start of the container until its host listens.
        lost_seconds: seconds after which Kubernetes gives up a node that does not answer; the
            kernel counts as dead then.
    """

    image: Image
    python: Argument = "python3"
    resources: Mapping[str, Mapping[str, Any]] = {}
    node_selector: Mapping[str, Label] = {}
    tolerations: tuple[Mapping[str, Any], ...] = ()
    service_account: Name | None = None
    volumes: tuple[Mapping[str, Any], ...] = ()
    volume_mounts: tuple[Mapping[str, Any], ...] = ()
    labels: Mapping[str, Label] = {}
    pod: Mapping[str, Any] = {}
    user: User = 1000
    cwd: Literal["launch", "image"] = "launch"
    schema: Mapping[str, Any] = msgspec.field(default_factory=lambda: DEFAULT_SCHEMA)
    gpu_resource: str = "nvidia.com/gpu"
    linger: Linger = 300.0
    queue_seconds: Seconds = 600.0
    image_seconds: Seconds = 120.0
    start_seconds: Seconds = 60.0
    lost_seconds: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 60


class KubernetesSettings(ConfiguredKernels, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a KubernetesProvider; see there."""

    kernels: Mapping[str, PodKernel] = {}
    config_map: Name | None = None
    namespace: Name | None = None
    kubeconfig: str | None = None
    context: str | None = None
    instance: Annotated[Label, msgspec.Meta(min_length=1)] = "default"
    port: Port = 8765
