"""The waits of a launch: until the pod runs, and until its host listens."""

from __future__ import annotations

import logging
import math

import anyio

from kernelproto.exceptions import KernelExitedEarly, KernelNotReady
from kernelproto.host.link import HostGone
from kernelproto.kubernetes.api import Connection
from kernelproto.kubernetes.bodies import Body, text
from kernelproto.kubernetes.failures import Pending, pending_reason, pod_end, runs
from kernelproto.kubernetes.manager import Pod, PodConnect
from kernelproto.kubernetes.settings import PodKernel
from kernelproto.startup_clock import waiting_in_queue

logger = logging.getLogger(__name__)

# The launch gives up before the caller's deadline, so that it can raise the reason: by a tenth of
# the time that is left, at most by a second.
_MARGIN = 0.1
_MOST_MARGIN_SECONDS = 1.0

_FIRST_PAUSE_SECONDS = 0.02
_LAST_PAUSE_SECONDS = 0.5

_REMEDY = (
    "raise Timeouts.queue or queue_seconds of the kernel type, ask for less, or add nodes to the "
    "cluster"
)


class _Wait:
    """The states of a pod until it runs.

    Args:
        pod: the pod.
        kernel: the kernel type.
        scope: cancels the wait; its deadline is brought forward if the image cannot be pulled.

    Attributes:
        reason: why it does not run yet.
        address: its address, once it runs.
    """

    def __init__(self, pod: Pod, kernel: PodKernel, scope: anyio.CancelScope) -> None:
        self.reason = Pending("the API of the cluster has not answered")
        self.address = ""
        self._pod = pod
        self._image_seconds = kernel.image_seconds
        self._scope = scope
        self._deadline = scope.deadline

    def see(self, body: Body | None) -> bool:
        """Take a state of the pod; return whether it runs.

        Raises:
            KernelExitedEarly: it has ended, or will never run.
        """
        end = pod_end(body if self._pod.is_this(body) else None)
        if end is not None or body is None:
            words = end.words if end is not None else ""
            raise KernelExitedEarly(f"the pod {self._pod.name} did not start the kernel: {words}")
        if runs(body):
            self.address = text(body, "status", "podIP")
            return True
        reason = pending_reason(body)
        if reason != self.reason:
            logger.info("pod %s waits: %s", self._pod.name, reason)
        if reason.of_image != self.reason.of_image:
            of_image = anyio.current_time() + self._image_seconds
            self._scope.deadline = min(self._deadline, of_image if reason.of_image else math.inf)
        self.reason = reason
        if reason.is_hopeless:
            raise KernelExitedEarly(
                f"the pod {self._pod.name} cannot start the kernel: {reason}; correct the image or "
                "the container of the kernel type"
            )
        return False


async def wait_until_it_runs(connection: Connection, pod: Pod, kernel: PodKernel) -> str:
    """Wait until a pod runs; return its address.

    The time counts for ``Timeouts.queue``. The reasons why the pod does not run are logged.

    Raises:
        KernelNotReady: the caller's deadline or that of the kernel type is over.
        KernelExitedEarly: the pod has ended, or will never run.
        KubernetesError: the API refuses a call.
    """
    began = anyio.current_time()
    with waiting_in_queue():
        callers = anyio.current_effective_deadline()
        margin = min(_MARGIN * max(callers - began, 0.0), _MOST_MARGIN_SECONDS)
        scope = anyio.CancelScope(deadline=min(callers - margin, began + kernel.queue_seconds))
        wait = _Wait(pod, kernel, scope)
        with scope:
            await connection.follow("pods", pod.name, wait.see)
            return wait.address
    seconds = round(anyio.current_time() - began, 2)
    raise KernelNotReady(
        f"the pod {pod.name} did not run after {seconds:g} s: {wait.reason}; {_REMEDY}",
        phase="queue",
        seconds=seconds,
    )


async def wait_for_host(connect: PodConnect, most: float) -> None:
    """Wait until the host in a pod listens; *connect* keeps the connection for its next call.

    Args:
        connect: connects to it.
        most: seconds until this gives up.

    Raises:
        KernelExitedEarly: the pod has ended.
        KernelNotReady: the host does not listen.
    """
    pause = _FIRST_PAUSE_SECONDS
    problem = ""
    with anyio.move_on_after(most):
        while True:
            try:
                await connect.prepare()
            except HostGone as error:
                raise KernelExitedEarly(
                    f"the pod {connect.machine} has ended before its host listened: {error}; see "
                    f"`kubectl logs {connect.machine}`, and that 'python' of the kernel type is a "
                    "Python 3.9 or newer in its image"
                ) from None
            except ConnectionError as error:
                problem = str(error)
                await anyio.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE_SECONDS)
            else:
                return
    raise KernelNotReady(
        f"the host in the pod {connect.machine} did not listen after {most:g} s: {problem}; allow "
        "this program to connect to it in the NetworkPolicy of the namespace, or raise "
        "start_seconds of the kernel type",
        phase="host",
        seconds=most,
    )
