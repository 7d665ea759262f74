"""PodManager: the handle on a kernel in a pod; PodConnect: the connection to its host."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import suppress

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.process_owner import Owner
from kernelproto.concurrency.reachability import Reachability
from kernelproto.concurrency.shield import to_the_end
from kernelproto.exceptions import LaunchError
from kernelproto.host.far_manager import FarKernelManager, greeted
from kernelproto.host.link import HostGone
from kernelproto.host.manager import HostedKernelManager
from kernelproto.kubernetes.api import Api
from kernelproto.kubernetes.bodies import Body
from kernelproto.kubernetes.failures import KubernetesError, node_problem, pod_end

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
_ASK_SECONDS = 5.0
_CLEANUP_SECONDS = 30.0

_KEEPALIVE = (
    ("TCP_KEEPIDLE", 6),
    ("TCP_KEEPINTVL", 3),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 15_000),
)


class Pod:
    """A pod that exists, or has existed.

    Args:
        api: the API.
        name: the name.
        uid: the uid.

    Attributes:
        name: the same.
        uid: the same.
    """

    def __init__(self, api: Api, name: str, uid: str) -> None:
        self.name = name
        self.uid = uid
        self._api = api

    def is_this(self, body: Body | None) -> bool:
        """Return whether an object is this pod, and not a later one of the same name."""
        return body is not None and body["metadata"]["uid"] == self.uid

    async def get(self) -> Body | None:
        """Return the pod; None if it was deleted.

        Raises:
            LaunchError: the API cannot be used.
        """
        async with self._api.connected() as connection:
            body = await connection.get("pods", self.name)
        return body if self.is_this(body) else None

    async def remove(self) -> None:
        """Delete the pod, and wait until it is gone; a pod of a lost node is deleted at once.

        Raises:
            LaunchError: the API cannot be used.
        """
        async with self._api.connected() as connection:
            is_forced = False

            def see(body: Body | None) -> bool:
                nonlocal is_forced
                is_forced = self.is_this(body) and bool(node_problem(body or {}))
                return not self.is_this(body) or is_forced

            await connection.delete("pods", self.name, self.uid)
            await connection.follow("pods", self.name, see)
            if is_forced:
                # The host ends the kernel, if it still runs, and Kubernetes the pod.
                await connection.delete("pods", self.name, self.uid, grace=0)


class PodConnect:
    """Connects to the host in a pod; implements FarConnect.

    Args:
        pod: the pod.
        address: the address of the pod, and the port of the host.
        tls: accepts only this host.

    Attributes:
        pod: the same.
        machine: the name of the pod.
        reachability: whether the kernel can be reached; its problem is kept up to date.
    """

    def __init__(self, pod: Pod, address: tuple[str, int], tls: ssl.SSLContext) -> None:
        self.pod = pod
        self.machine = pod.name
        self.reachability = Reachability()
        self._address = address
        self._tls = tls
        self._prepared: ByteStream | None = None

    async def prepare(self) -> None:
        """Connect, and keep the connection for the next call; exceptions as for a call."""
        self._prepared = await self._connect()

    async def __call__(self) -> ByteStream:
        if self._prepared is not None:
            prepared, self._prepared = self._prepared, None
            await checkpoint()
            return prepared
        return await self._connect()

    async def _connect(self) -> ByteStream:
        host, port = self._address
        try:
            with anyio.fail_after(_CONNECT_SECONDS):
                connected = await anyio.connect_tcp(
                    host,
                    port,
                    tls=True,
                    ssl_context=self._tls,
                    tls_standard_compatible=False,
                    tls_hostname=host,
                )
                _keep_alive(connected)
                stream = await greeted(connected)
                if stream is not None:
                    return stream
            problem = "its host has closed the connection"
        except (OSError, ssl.SSLError, TimeoutError, anyio.BrokenResourceError) as error:
            problem = f"its host does not answer ({str(error) or 'timeout'})"
        problem = await self._look(problem)
        if self.reachability.problem is not None:
            self.reachability.lose(problem)
        raise ConnectionError(problem)

    async def _look(self, problem: str) -> str:
        """Return why the host cannot be reached, as far as Kubernetes knows.

        Raises:
            HostGone: the pod has ended.
        """
        with anyio.move_on_after(_ASK_SECONDS):
            try:
                body = await self.pod.get()
            except LaunchError as error:
                return f"{problem}; {error}"
            end = pod_end(body)
            if end is not None:
                raise HostGone(end.words, cause=end.cause)
            return node_problem(body or {}) or problem
        return f"{problem}; the API of the cluster does not answer"

    async def release(self) -> None:
        """Close the connection that prepare() has left, if there is one."""
        if self._prepared is not None:
            prepared, self._prepared = self._prepared, None
            await anyio.aclose_forcefully(prepared)


class PodManager(FarKernelManager):
    """The handle on a kernel in a pod.

    Args:
        hosted: the handle on the kernel in its host.
        connect: connects to the host.
    """

    def __init__(self, hosted: HostedKernelManager, connect: PodConnect) -> None:
        super().__init__(hosted, connect)
        self.pod = connect.pod
        self._this_program = Owner()
        self._is_over = False

    async def cleanup(self) -> None:
        """End the kernel, and delete its pod; its Secret goes with the pod.

        Cancellation does not stop it. It takes at most 35 s. If the API does not answer, that is
        logged; the next launch of any program of this instance deletes the pod.
        """
        if self._is_over or not self._this_program.is_here:
            return
        self._is_over = True
        try:
            await super().cleanup()
        finally:
            await remove_pod(self.pod)

    async def detach(self) -> None:
        """Let go of the kernel, which goes on; any program of this instance can adopt it."""
        self._is_over = True
        await super().detach()


def _keep_alive(stream: ByteStream) -> None:
    """Have the system close the connection about 15 s after the machine of the pod was lost."""
    end = stream.extra(SocketAttribute.raw_socket)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        with suppress(AttributeError, OSError):  # only Linux has all of them
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def remove_pod(pod: Pod) -> bool:
    """Delete a pod, although the caller is cancelled meanwhile; return whether it is gone.

    It takes at most 30 s. An error is logged.
    """
    is_gone = False

    async def remove() -> None:
        nonlocal is_gone
        try:
            await pod.remove()
            is_gone = True
        except KubernetesError as error:
            logger.warning("pod %s is left behind: %s", pod.name, error)

    await to_the_end(remove, seconds=_CLEANUP_SECONDS)
    if not is_gone:
        logger.warning("pod %s was not gone after %g s", pod.name, _CLEANUP_SECONDS)
    return is_gone
