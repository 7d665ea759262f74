"""PodHost: launches kernels in pods and adopts them."""

from __future__ import annotations

import logging
import os
import secrets
import time
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread
import msgspec

from kernelproto.concurrency.shield import to_the_end
from kernelproto.exceptions import InvalidLaunchParameter, LaunchError
from kernelproto.host.facts import Facts
from kernelproto.host.launch import start_on
from kernelproto.host.manager import HostedKernelManager
from kernelproto.interfaces import KernelAttributes, KernelHandle, KernelManager
from kernelproto.kubernetes.adoption import ID, adopt, find_launched, pod_handle
from kernelproto.kubernetes.api import Api, Connection
from kernelproto.kubernetes.bodies import Body
from kernelproto.kubernetes.failures import KubernetesError
from kernelproto.kubernetes.kernel_types import KernelTypes
from kernelproto.kubernetes.keys import client_context, new_key_pair
from kernelproto.kubernetes.leftovers import remove_leftovers
from kernelproto.kubernetes.manager import Pod, PodConnect, PodManager, remove_pod
from kernelproto.kubernetes.parameters import Launch, check_launch
from kernelproto.kubernetes.pod import pod_body, pod_name, program_map, secret_body
from kernelproto.kubernetes.settings import KubernetesSettings, PodKernel
from kernelproto.kubernetes.start import wait_for_host, wait_until_it_runs
from kernelproto.launch.failures import shortages_named
from kernelproto.launch.host_program import archive
from kernelproto.launch.launcher import launch_errors
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

_KEY_BYTES = 32

# How often launches look for leftovers, and for the program of the host.
_SWEEP_SECONDS = 60.0

_CREATE_SECONDS = 20.0
_UNDO_SECONDS = 45.0


class PodHost:
    """Launches kernels in pods and adopts them, for a KubernetesProvider.

    Args:
        settings: the settings of the provider.

    Raises:
        ValueError: a setting is not valid.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        self._api = Api(settings.kubeconfig, settings.context, settings.namespace)
        self._types = KernelTypes(settings, self._api)
        self._instance = settings.instance
        self._port = settings.port
        self._swept: float | None = None
        self._program: tuple[float, str] | None = None

    async def kernel_types(self) -> list[tuple[str, KernelAttributes]]:
        """Return the kernel types of the settings and of the ConfigMap."""
        kernels = await self._types.all()
        return [
            (
                name,
                kernel.attributes(
                    f"{name} ({ID})", {"launch_parameter_schema": kernel.schema}, fault=None
                ),
            )
            for name, kernel in kernels.items()
        ]

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None,
        launch_params: Mapping[str, object] | None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Make a pod, and start the kernel in it; see KubernetesProvider.launch()."""
        kernel = await self._types.one(name)
        kernel_id = str(uuid.uuid4())
        launch = check_launch(kernel, f"{ID}/{name}", kernel_id, launch_params)
        if kernel.cwd == "image":
            cwd = None
        if cwd is not None and not os.path.isabs(cwd):
            raise InvalidLaunchParameter(f"the working directory {cwd!r} is not absolute")
        with shortages_named():
            await self._sweep()
            return await self._launch(kernel, f"{ID}/{name}", kernel_id, cwd, launch)

    async def adopt(
        self, handle: KernelHandle, *, replays: bool = False
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Take over the kernel of a pod; see KubernetesProvider.adopt()."""
        return await adopt(self._api, handle, replays=replays)

    async def find_launched(self, name: str, kernel_id: str) -> KernelHandle | None:
        """Return the handle of a listed kernel; see KubernetesProvider.find_launched()."""
        kernel_type = f"{ID}/{name}"
        return await find_launched(self._api, self._instance, self._port, kernel_type, kernel_id)

    async def remove_leftovers(self) -> int:
        """Remove leftovers; see KubernetesProvider.remove_leftovers()."""
        self._swept = time.monotonic()
        return await remove_leftovers(self._api, self._instance)

    async def _sweep(self) -> None:
        now = time.monotonic()
        if self._swept is None or now - self._swept > _SWEEP_SECONDS:
            await self.remove_leftovers()

    async def _launch(
        self,
        kernel: PodKernel,
        kernel_type: str,
        kernel_id: str,
        cwd: str | None,
        launch: Launch,
    ) -> tuple[ConnectionInfo, KernelManager]:
        pair = await anyio.to_thread.run_sync(new_key_pair, kernel_id)
        name = pod_name(kernel_id)
        async with self._api.connected() as connection, AsyncExitStack() as undo:
            body = pod_body(
                kernel,
                kernel_id,
                kernel_type=kernel_type,
                instance=self._instance,
                owner=msgspec.json.encode(ProcessId.of(os.getpid())).decode(),
                program=await self._store_program(connection),
                port=self._port,
                resources=launch.resources,
                listed_as=launch.listed_as,
            )
            undo.push_async_callback(self._undo, name)
            made = await self._create(connection, body, undo)
            pod = Pod(self._api, name, str(made["metadata"]["uid"]))
            # The Secret comes second, so that none is ever without a pod that it goes with.
            secret = secret_body(made, kernel_id, self._instance, pair)
            await connection.create("secrets", secret)
            address = await wait_until_it_runs(connection, pod, kernel)
            tls = await anyio.to_thread.run_sync(client_context, pair)
            connect = PodConnect(pod, (address, self._port), tls)
            undo.push_async_callback(connect.release)
            await wait_for_host(connect, kernel.start_seconds)
            hosted = await self._start(connect, kernel, kernel_type, kernel_id, cwd, launch)
            undo.pop_all()
        return hosted.connection_info, PodManager(hosted, connect)

    async def _store_program(self, connection: Connection) -> str:
        """Store the program of the host in the cluster; return the name of its ConfigMap."""
        now = time.monotonic()
        if self._program is None or now - self._program[0] > _SWEEP_SECONDS:
            body = program_map(await anyio.to_thread.run_sync(archive))
            try:
                await connection.create("configmaps", body)
            except KubernetesError as error:
                if error.fault != "conflict":
                    raise
            self._program = now, str(body["metadata"]["name"])
        return self._program[1]

    async def _create(self, connection: Connection, body: Body, undo: AsyncExitStack) -> Body:
        """Create a pod. A cancelled call waits for the answer, so that the pod can be removed."""
        try:
            made = await to_the_end(
                lambda: connection.create("pods", body), seconds=_CREATE_SECONDS
            )
        except KubernetesError as error:
            if error.fault not in ("busy", "unreachable"):
                undo.pop_all()  # there is no pod
            raise
        if made is None:
            raise LaunchError(
                f"the API did not answer within {_CREATE_SECONDS:g} s to create a pod"
            )
        return made

    async def _undo(self, name: str) -> None:
        """Remove the pod of a launch that has failed, if it exists."""

        async def remove() -> None:
            try:
                async with self._api.connected() as connection:
                    body = await connection.get("pods", name)
                if body is not None:
                    await remove_pod(Pod(self._api, name, str(body["metadata"]["uid"])))
            except LaunchError as error:
                logger.warning("pod %s may be left behind: %s", name, error)

        await to_the_end(remove, seconds=_UNDO_SECONDS)

    async def _start(
        self,
        connect: PodConnect,
        kernel: PodKernel,
        kernel_type: str,
        kernel_id: str,
        cwd: str | None,
        launch: Launch,
    ) -> HostedKernelManager:
        facts = Facts(
            kernel_type=kernel_type,
            command=launch.command,
            interrupt_mode=kernel.interrupt_mode,
        )
        first = {
            "op": "start",
            "argv": launch.command,
            "env": launch.env,
            "inherits": True,
            "cwd": cwd,
            "linger": launch.linger,
            "connection_info": {
                "key": secrets.token_hex(_KEY_BYTES),
                "signature_scheme": "hmac-sha256",
                "kernel_name": kernel_type,
            },
            "parent_variable": False,
            "record": {"listed_as": launch.listed_as},
            "facts": msgspec.to_builtins(facts),
        }
        handle = pod_handle(kernel_type, kernel_id, connect.pod.uid, self._port)
        with launch_errors(launch.command, cwd):
            return await start_on(connect, handle, first)
