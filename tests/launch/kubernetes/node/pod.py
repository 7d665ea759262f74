"""A pod on a node, from its binding until its object is gone."""

from __future__ import annotations

import math
import shutil
import sys
from typing import TYPE_CHECKING

import anyio
import httpx

from tests.launch.kubernetes.node.client import RETRY_SECONDS, STRATEGIC, now
from tests.launch.kubernetes.node.container import Container
from tests.launch.kubernetes.node.references import NotThere
from tests.launch.kubernetes.node.volumes import fill_volumes, refusal

if TYPE_CHECKING:
    from tests.launch.kubernetes.node.node import Node


class Pod:
    """One pod.

    Attributes:
        volumes: the folder of each volume, as soon as all are there.
    """

    def __init__(self, node: Node, manifest: dict) -> None:
        self.node = node
        self.manifest = manifest
        self.meta = manifest["metadata"]
        self.path = f"/api/v1/namespaces/{self.meta['namespace']}/pods/{self.meta['name']}"
        self.folder = node.folder / "pods" / self.meta["uid"]
        # A pod has one address for all its life, even if the node has rebooted meanwhile.
        self.address = manifest.get("status", {}).get("podIP") or node.new_address()
        self.volumes: dict[str, str] = {}
        self.containers = [Container(self, spec) for spec in manifest["spec"]["containers"]]
        self._started = now()
        self._over = False
        self._gone = False
        self._failure: dict[str, str] = {}
        self._deleted = anyio.Event()
        self._kill_at = math.inf
        self._grace = anyio.CancelScope()
        self._version = 0
        self._changed = anyio.Event()
        self._sent_version = 0
        self._sent = anyio.Event()

    async def live(self) -> None:
        """Run the containers, report them, and remove the object when it is deleted."""
        self.folder.mkdir(parents=True)
        try:
            async with anyio.create_task_group() as tasks:
                if self._phase_before() not in ("Succeeded", "Failed"):
                    tasks.start_soon(self._send_states)
                    await self._run_or_refuse()
                    await self.report()
                await self._deleted.wait()
                await self._remove()
                tasks.cancel_scope.cancel()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _phase_before(self) -> str:
        """Return the phase in which an earlier life of the node has left the pod."""
        return self.manifest.get("status", {}).get("phase", "Pending")

    async def _run_or_refuse(self) -> None:
        if problem := refusal(self.manifest):
            self._failure = {"reason": "UnexpectedAdmissionError", "message": problem}
        elif self._phase_before() == "Pending":
            await self._run()
        self._over = True
        for container in self.containers:
            container.settle()

    def delete(self, grace: float) -> None:
        """End the containers within so many seconds; a later call can only shorten the time."""
        self._kill_at = min(self._kill_at, anyio.current_time() + grace)
        self._grace.deadline = self._kill_at
        self._deleted.set()

    def forget(self) -> None:
        """End the containers at once: the object is gone."""
        self._gone = True
        self.delete(0)

    def change(self) -> None:
        """Have the new state reported."""
        self._version += 1
        self._changed.set()

    async def report(self) -> None:
        """Have the state reported, and wait until it is."""
        self.change()
        version = self._version
        while self._sent_version < version:
            await self._sent.wait()

    async def tell(self, kind: str, reason: str, message: str) -> None:
        """Create an event of this pod."""
        await self.node.tell(self.manifest, kind, reason, message)

    async def _run(self) -> None:
        limit = self.manifest["spec"].get("activeDeadlineSeconds", math.inf)
        with anyio.move_on_after(limit) as deadline:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._end_when_deleted, tasks.cancel_scope)
                await self._mount()
                async with anyio.create_task_group() as containers:
                    for container in self.containers:
                        containers.start_soon(container.run)
                tasks.cancel_scope.cancel()
        if deadline.cancelled_caught:
            self._failure = {
                "reason": "DeadlineExceeded",
                "message": "Pod was active on the node longer than the specified deadline",
            }

    async def _mount(self) -> None:
        """Fill the volumes, as soon as the objects that they name are there."""
        told = False
        while True:
            try:
                self.volumes = await fill_volumes(self)
            except NotThere as error:
                if not told:
                    message = f"MountVolume.SetUp failed for volume: {error}"
                    await self.tell("Warning", "FailedMount", message)
                    told = True
                await anyio.sleep(RETRY_SECONDS)
            else:
                return

    async def _end_when_deleted(self, everything: anyio.CancelScope) -> None:
        await self._deleted.wait()
        for container in self.containers:
            container.terminate()
        if any(container.is_running for container in self.containers):
            with self._grace:
                await self.tell("Normal", "Killing", "Stopping the containers of the pod")
                await anyio.sleep_forever()
        everything.cancel()

    async def _remove(self) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.meta["uid"]}}
        await self.node.client.insist("DELETE", self.path, options)

    async def _send_states(self) -> None:
        while True:
            self._changed = anyio.Event()
            version = self._version
            await self._send_state()
            self._sent_version = version
            self._sent.set()
            self._sent = anyio.Event()
            await self._changed.wait()

    async def _send_state(self) -> None:
        """Send the state; a pod of the same name that has come later is left alone."""
        while not self._gone:
            body = {"metadata": {"uid": self.meta["uid"]}, "status": self._status()}
            path = f"{self.path}/status"
            status, answer = await self.node.client.insist("PATCH", path, body, STRATEGIC)
            if status == httpx.codes.CONFLICT:  # with another change, or it is a later pod
                await anyio.sleep(RETRY_SECONDS)
                continue
            if status not in (httpx.codes.OK, httpx.codes.NOT_FOUND):
                sys.stderr.write(f"the status of {self.path} is refused: {answer}\n")
            return

    def _status(self) -> dict:
        ready = all(container.is_running for container in self.containers)
        states = {"Initialized": True, "Ready": ready, "ContainersReady": ready}
        return {
            "phase": self._phase(),
            **self._failure,
            "hostIP": "127.0.0.1",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self._started,
            "conditions": [
                {"type": kind, "status": str(state), "lastTransitionTime": now()}
                for kind, state in {**states, "PodScheduled": True}.items()
            ],
            "containerStatuses": [container.status() for container in self.containers],
        }

    def _phase(self) -> str:
        if not self._over:
            waiting = any("waiting" in container.state for container in self.containers)
            return "Pending" if waiting else "Running"
        failed = self._failure or any(container.exit_code for container in self.containers)
        return "Failed" if failed else "Succeeded"
