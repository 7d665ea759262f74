"""A Kubernetes of the tests' own: a control plane and two nodes, which run processes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.launch.kubernetes.api import ApiError
from tests.launch.kubernetes.binaries import NoKubernetes
from tests.launch.kubernetes.control_plane import ControlPlane, KubernetesFailed, end_with_tests
from tests.launch.kubernetes.node.node import Config

NODES = ("n1", "n2")
CAPACITY = {"cpu": "8", "memory": "16Gi", "pods": "110"}

_HERE = Path(__file__).resolve().parents[3]
_numbers = itertools.count(1)

# A node gives its pods addresses 127.N.*. A socket with the last one of them and this port shows
# other clusters on this machine that N is taken.
_FIRST, _LAST = 80, 250
_TAKEN_PORT = 28127


class Cluster(ControlPlane):
    """The control plane, and the programs of its nodes.

    Raises:
        NoKubernetes: a program is missing, or this user may not run it.
        KubernetesFailed: it does not start.
    """

    def __init__(self) -> None:
        if sys.platform != "linux" or os.getuid() != 0:
            raise NoKubernetes("the tests with Kubernetes need Linux and root, for namespaces")
        self.folder = Path(tempfile.mkdtemp(prefix="kp-kube-"))
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._addresses: dict[str, tuple[str, socket.socket]] = {}
        try:
            super().__init__(self.folder, NODES)
            for name in NODES:
                self._addresses[name] = _take_addresses()
                self._start_node(name)
            self.wait_for_nodes()
        except BaseException:
            self.close()
            raise

    def pods(self, namespace: str) -> list[dict]:
        """Return all pods of a namespace."""
        found = self.api.get(f"/api/v1/namespaces/{namespace}/pods")
        return list(found["items"])

    def new_namespace(self) -> str:
        """Create a namespace, and return its name."""
        name = f"test-{next(_numbers)}"
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        # Without its token, pods that want to see it are refused.
        self.api.wait_for(account, lambda one: one is not None and bool(one.get("secrets")))
        return name

    def is_ready(self, node: str) -> bool:
        """Return whether the control plane counts a node as ready."""
        try:
            found = self.api.get(f"/api/v1/nodes/{node}")
        except ApiError:
            return False
        conditions = found["status"].get("conditions", [])
        ready = [one["status"] for one in conditions if one["type"] == "Ready"]
        return ready == ["True"] and not found["spec"].get("taints")

    def wait_for_nodes(self) -> None:
        """Wait until all nodes are ready, and pods may go there."""
        self.wait_until(lambda: all(self.is_ready(name) for name in NODES), "the nodes")

    def kill_node(self, name: str) -> None:
        """Kill the program of a node; the processes of its pods live on."""
        process = self._nodes.pop(name)
        process.kill()
        process.wait()

    def lose_node(self, name: str) -> None:
        """Kill the program of a node, and all processes of its pods."""
        self.kill_node(name)
        self._kill_containers(name)

    def start_node(self, name: str) -> None:
        """Start a node that was killed, as after a reboot, and wait until it is ready."""
        self._kill_containers(name)
        self._start_node(name)
        self.wait_for_nodes()

    def suspend_node(self, name: str) -> None:
        """Stop the program of a node until resume_node(); the processes of its pods go on."""
        self._nodes[name].send_signal(signal.SIGSTOP)

    def resume_node(self, name: str) -> None:
        self._nodes[name].send_signal(signal.SIGCONT)

    def processes(self, uid: str) -> list[int]:
        """Return the processes of a pod, by the uid of its object."""
        found = []
        for name in NODES:
            for starter in self._starters(f"{self.folder}/{name}/pods/{uid}/"):
                found += _descendants(starter)
        return found

    def kill_processes(self, uid: str) -> None:
        """Kill all processes of a pod, as the kernel of Linux does when memory runs out."""
        for pid in self.processes(uid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End all processes by their ids, and remove the folder."""
        for node in self._nodes.values():
            node.kill()
        for node in self._nodes.values():
            node.wait()
        for name in NODES:
            self._kill_containers(name)
        if hasattr(self, "_processes"):
            super().close()
        for _, taken in self._addresses.values():
            taken.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_node(self, name: str) -> None:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        certificate, key = self.authority.issue(name)
        config: Config = {
            "name": name,
            "url": self.url,
            "ca_file": self.ca_file,
            "token": self.tokens[f"system:node:{name}"],
            "certificate": certificate,
            "key": key,
            "folder": str(folder),
            "addresses": self._addresses[name][0],
            "capacity": CAPACITY,
        }
        path = self.folder / f"{name}.json"
        path.touch(0o600)
        path.write_text(json.dumps(config))
        with open(self.folder / f"{name}.log", "ab") as log:
            self._nodes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.launch.kubernetes.node", path],
                cwd=_HERE,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: end_with_tests(signal.SIGTERM),
            )

    def _kill_containers(self, name: str) -> None:
        """Kill the containers of a node; the kernel ends all processes in their namespaces."""
        for pid in self._starters(f"{self.folder}/{name}/pods/"):
            for victim in (*_children(pid), pid):
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)

    def _starters(self, beginning: str) -> Iterator[int]:
        """Yield the processes that have started containers, see enclose.py."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                arguments = path.read_bytes().split(b"\0")
                if any(argument.startswith(beginning.encode()) for argument in arguments):
                    yield int(path.parts[2])


def _take_addresses() -> tuple[str, socket.socket]:
    """Return the beginning of addresses that no other cluster uses while the socket is open."""
    for number in range(_FIRST, _LAST):
        taken = socket.socket()
        try:
            taken.bind((f"127.{number}.255.254", _TAKEN_PORT))
        except OSError:
            taken.close()
        else:
            return f"127.{number}.", taken
    raise KubernetesFailed("all addresses are taken by other clusters on this machine")


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _descendants(pid: int) -> list[int]:
    return [one for child in _children(pid) for one in (child, *_descendants(child))]
