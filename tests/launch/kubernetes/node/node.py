"""A node without a container runtime: it registers, renews its lease and runs the pods it gets."""

from __future__ import annotations

import secrets
import signal
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

import anyio
import anyio.abc
import httpx

from tests.launch.kubernetes.node.client import (
    MERGE,
    RETRY_SECONDS,
    STRATEGIC,
    Client,
    Lost,
    now,
    now_micro,
)
from tests.launch.kubernetes.node.logs import serve_logs
from tests.launch.kubernetes.node.pod import Pod

HEARTBEAT_SECONDS = 1
LEASE_SECONDS = 8


class Config(TypedDict):
    """The settings of a node, which its program reads from a JSON file.

    ``addresses`` begins the addresses of the pods, such as ``127.81.``. ``ready`` is a file that
    the node makes when it has registered.
    """

    name: str
    url: str
    ca_file: str
    token: str
    certificate: str
    key: str
    folder: str
    addresses: str
    capacity: dict[str, str]


class Node:
    """One node."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.name = config["name"]
        self.folder = Path(config["folder"])
        self.client = Client(config["url"], config["ca_file"], config["token"])
        self.pods: dict[str, Pod] = {}
        self._addresses = 0
        self._port = 0

    async def run(self) -> None:
        """Serve until SIGTERM, which ends the containers, too."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_on_signal, tasks.cancel_scope)
            self._port = await tasks.start(serve_logs, self)
            await self._register()
            tasks.start_soon(self._renew_lease)
            tasks.start_soon(self._report)
            tasks.start_soon(self._follow_pods, tasks)

    def new_address(self) -> str:
        """Return a loopback address that no other pod has had."""
        self._addresses += 1
        high, low = divmod(self._addresses, 250)
        return f"{self.config['addresses']}{high}.{low + 1}"

    async def tell(self, pod: dict, kind: str, reason: str, message: str) -> None:
        """Create an event of a pod."""
        meta = pod["metadata"]
        subject = {
            "apiVersion": "v1",
            "kind": "Pod",
            **{key: meta[key] for key in ("name", "namespace", "uid")},
        }
        event = {
            "metadata": {"name": f"{meta['name'][:200]}.{secrets.token_hex(8)}"},
            "involvedObject": subject,
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": self.name},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        with suppress(httpx.HTTPError, ValueError):
            await self.client.call("POST", f"/api/v1/namespaces/{meta['namespace']}/events", event)

    async def _end_on_signal(self, everything: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                everything.cancel()

    async def _register(self) -> None:
        labels = {"kubernetes.io/hostname": self.name, "kernelproto.test/node": self.name}
        node = {"metadata": {"name": self.name, "labels": labels}}
        await self.client.insist("POST", "/api/v1/nodes", node)

    async def _renew_lease(self) -> None:
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": LEASE_SECONDS}
        while True:
            renewal = {"spec": {**spec, "renewTime": now_micro()}}
            status, _ = await self.client.insist("PATCH", f"{leases}/{self.name}", renewal, MERGE)
            if status == httpx.codes.NOT_FOUND:
                lease = {"metadata": {"name": self.name}, **renewal}
                await self.client.insist("POST", leases, lease)
            await anyio.sleep(HEARTBEAT_SECONDS)

    async def _report(self) -> None:
        path = f"/api/v1/nodes/{self.name}"
        since, was_ready = now(), False
        while True:
            _, node = await self.client.insist("GET", path)
            conditions = node.get("status", {}).get("conditions", [])
            ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
            if was_ready and not ready:
                since = now()
            was_ready = True
            status = {"status": self._status(since)}
            await self.client.insist("PATCH", f"{path}/status", status, STRATEGIC)
            await anyio.sleep(HEARTBEAT_SECONDS)

    def _status(self, since: str) -> dict:
        states = {"Ready": "True"}
        states |= dict.fromkeys(("MemoryPressure", "DiskPressure", "PIDPressure"), "False")
        return {
            "capacity": self.config["capacity"],
            "allocatable": self.config["capacity"],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "reason": "NodeOfTheTests",
                    "lastHeartbeatTime": now(),
                    "lastTransitionTime": since,
                }
                for kind, status in states.items()
            ],
        }

    async def _follow_pods(self, tasks: anyio.abc.TaskGroup) -> None:
        selector = f"spec.nodeName={self.name}"
        while True:
            path = f"/api/v1/pods?fieldSelector={selector}"
            status, found = await self.client.insist("GET", path)
            if status == httpx.codes.OK:
                present = {pod["metadata"]["uid"] for pod in found["items"]}
                for uid in set(self.pods) - present:
                    self.pods.pop(uid).forget()
                for pod in found["items"]:
                    self._take(pod, tasks)
                version = found["metadata"]["resourceVersion"]
                with suppress(Lost):
                    async for event in self.client.watch("/api/v1/pods", selector, version):
                        self._take_event(event, tasks)
            await anyio.sleep(RETRY_SECONDS)

    def _take_event(self, event: dict, tasks: anyio.abc.TaskGroup) -> None:
        # A pod stays known until its last event: an earlier one must not start it again.
        if event["type"] == "DELETED":
            if pod := self.pods.pop(event["object"]["metadata"]["uid"], None):
                pod.forget()
        else:
            self._take(event["object"], tasks)

    def _take(self, manifest: dict, tasks: anyio.abc.TaskGroup) -> None:
        """Start a new pod, and tell a known one about its deletion."""
        uid = manifest["metadata"]["uid"]
        if uid not in self.pods:
            self.pods[uid] = Pod(self, manifest)
            tasks.start_soon(self.pods[uid].live)
        if "deletionTimestamp" in manifest["metadata"]:
            self.pods[uid].delete(manifest["metadata"].get("deletionGracePeriodSeconds", 0))
