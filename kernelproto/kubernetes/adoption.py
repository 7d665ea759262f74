"""Taking over kernels in pods: by a handle, or by the id of a launch that was interrupted.

The pod of a launch has the id under which the kernel is listed as a label. If the launching program
was killed before storing the handle, the pod has a kernel, or never gets one. A pod without a
kernel is removed here, unless the program that launches the kernel may still run.
"""

from __future__ import annotations

import logging

import anyio
import anyio.to_thread
import msgspec

from kernelproto.exceptions import (
    DiscoveryError,
    KernelExitedEarly,
    KernelInUse,
    KernelNotReady,
)
from kernelproto.host.inquiry import ask_host
from kernelproto.host.launch import adopt_hosted
from kernelproto.host.link import LOST, HostGone
from kernelproto.interfaces import KernelHandle, KernelManager
from kernelproto.kubernetes.api import Api, Connection
from kernelproto.kubernetes.bodies import Body, text
from kernelproto.kubernetes.failures import KubernetesError, pod_end, runs
from kernelproto.kubernetes.keys import client_context
from kernelproto.kubernetes.leftovers import owner_of, seconds_of
from kernelproto.kubernetes.manager import Pod, PodConnect, PodManager, remove_pod
from kernelproto.kubernetes.parameters import is_label
from kernelproto.kubernetes.pod import INSTANCE_LABEL, LABEL, LISTED_LABEL, key_pair_of, pod_name
from kernelproto.kubernetes.start import wait_for_host
from kernelproto.launch.spec.configuration import place_in
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

ID = "kubernetes"

# The program that has made a younger pod may still launch the kernel. A registry gives the kernel
# of a program that has ended to another program earlier.
_FRESH_SECONDS = 60.0

# The host of a pod that has just begun to run listens after a fraction of a second.
_HOST_SECONDS = 10.0


class _Place(msgspec.Struct):
    """The place in a handle of this provider."""

    kernel: str
    uid: str
    port: int


def pod_handle(kernel_type: str, kernel: str, uid: str, port: int) -> KernelHandle:
    """Return the handle of a kernel.

    Args:
        kernel_type: ``provider/name``.
        kernel: the id of the kernel, a UUID, which is in the name of the pod.
        uid: the uid of the pod.
        port: the port of the host.
    """
    place = msgspec.to_builtins(_Place(kernel, uid, port))
    return KernelHandle(host=ID, kernel_type=kernel_type, kernel_id=kernel, place=place)


async def adopt(
    api: Api, handle: KernelHandle, *, replays: bool = False
) -> tuple[ConnectionInfo, KernelManager]:
    """Take over the kernel of a pod; see KubernetesProvider.adopt()."""
    place = place_in(handle, _Place)
    ended = DiscoveryError(f"the kernel {place.kernel} has ended")
    async with api.connected() as connection:
        body = await connection.get("pods", pod_name(place.kernel))
        if body is None or body["metadata"]["uid"] != place.uid:
            raise ended
        connect = await _connect_to(api, connection, body, place.port)
    if connect is None:
        raise ended
    info, hosted = await adopt_hosted(handle, connect, replays=replays)
    return info, PodManager(hosted, connect)


async def find_launched(
    api: Api, instance: str, port: int, kernel_type: str, kernel_id: str
) -> KernelHandle | None:
    """Return the handle of the kernel that is listed under an id; None without one.

    Args:
        api: the API.
        instance: the programs that share their kernels.
        port: the port of the host.
        kernel_type: the kernel type of the launch.
        kernel_id: the launch parameter ``listed_as`` of the launch.

    Raises:
        KernelInUse: a running program is launching the kernel.
        DiscoveryError: the Secret of the pod cannot be used.
        LaunchError: the API or the host cannot be reached, or a program on another machine may be
            launching the kernel.
    """
    if not kernel_id or not is_label(kernel_id):
        return None  # no launch has this id
    found: KernelHandle | None = None
    async with api.connected() as connection:
        label = f"{INSTANCE_LABEL}={instance},{LISTED_LABEL}={kernel_id}"
        pods = await connection.list("pods", label)
        # A restart ends the old pod first, so there is one; of several, the last one counts.
        for body in sorted(pods, key=lambda pod: text(pod, "metadata", "creationTimestamp")):
            if text(body, "metadata", "deletionTimestamp") or pod_end(body) is not None:
                continue
            kernel = text(body, "metadata", "labels", LABEL)
            connect = await _connect_to(api, connection, body, port) if runs(body) else None
            if connect is not None and await _has_kernel(connect, kernel):
                handle = pod_handle(kernel_type, kernel, connect.pod.uid, port)
                found = msgspec.structs.replace(handle, kernel_id=kernel_id)
                continue
            _check_owner(body, kernel_id, connection.now)
            name, uid = str(body["metadata"]["name"]), str(body["metadata"]["uid"])
            logger.info("pod %s is removed: the launch of its kernel was interrupted", name)
            await remove_pod(Pod(api, name, uid))
    return found


async def _connect_to(api: Api, connection: Connection, body: Body, port: int) -> PodConnect | None:
    """Return the connection to the host of a pod; None if the pod has no Secret or address.

    Raises:
        DiscoveryError: the Secret cannot be used.
        KubernetesError: the API cannot be used.
    """
    name, uid = str(body["metadata"]["name"]), str(body["metadata"]["uid"])
    secret = await connection.get("secrets", name)
    address = text(body, "status", "podIP")
    if secret is None or not address:
        return None
    try:
        tls = await anyio.to_thread.run_sync(client_context, key_pair_of(secret))
    except (ValueError, OSError) as error:
        raise DiscoveryError(f"the Secret of pod {name!r} cannot be used: {error}") from error
    return PodConnect(Pod(api, name, uid), (address, port), tls)


async def _has_kernel(connect: PodConnect, kernel: str) -> bool:
    """Return whether the host of a pod runs a kernel.

    Raises:
        KubernetesError: the host cannot be reached.
    """
    try:
        await wait_for_host(connect, _HOST_SECONDS)
        kernels = (await ask_host(connect, "list"))["kernels"]
    except (KernelExitedEarly, HostGone):
        return False
    except (KernelNotReady, *LOST) as error:
        raise KubernetesError(
            f"the host in the pod {connect.machine} cannot be reached now: "
            f"{str(error) or 'the connection was lost'}",
            fault="unreachable",
        ) from error
    finally:
        with anyio.CancelScope(shield=True):  # closes without waiting
            await connect.release()
    return any(each["kernel"] == kernel and each["ended"] is None for each in kernels)


def _check_owner(body: Body, kernel_id: str, now: float) -> None:
    """Check that the program that has made a pod launches no kernel in it any more.

    Raises:
        KernelInUse: the program runs on this machine.
        KubernetesError: the program is on another machine, and the pod is new.
    """
    owner = owner_of(body)
    if owner is None or owner.is_gone:
        return
    if owner.is_here:
        raise KernelInUse(
            f"the kernel {kernel_id} is being launched by process {owner.pid}", pid=owner.pid
        )
    if now < seconds_of(text(body, "metadata", "creationTimestamp")) + _FRESH_SECONDS:
        name = text(body, "metadata", "name")
        raise KubernetesError(
            f"process {owner.pid} on {owner.machine.host!r} may be launching the kernel "
            f"{kernel_id} in the pod {name!r}: try again {_FRESH_SECONDS:g} s after the pod was "
            f"made, or delete the pod",
            fault="busy",
        )
