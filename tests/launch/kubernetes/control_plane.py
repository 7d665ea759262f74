"""A control plane of the tests' own: etcd and the programs of Kubernetes, on loopback."""

from __future__ import annotations

import base64
import secrets
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import yaml

from kernelproto.launch.programs.namespaces import PR_SET_PDEATHSIG, prctl
from tests.launch.kubernetes.api import Api, ApiError
from tests.launch.kubernetes.binaries import find_programs
from tests.launch.kubernetes.certificates import Authority

START_SECONDS = 100
GRACE_SECONDS = 6  # after its last lease a node counts as ready for so long

ADMIN, SCHEDULER, MANAGER = "admin", "system:kube-scheduler", "system:kube-controller-manager"
MASTERS, NODES = "system:masters", "system:nodes"


class KubernetesFailed(Exception):
    """Kubernetes is installed, but does not start; the text has the ends of the logs."""


class ControlPlane:
    """The programs; etcd keeps the objects in the folder.

    Args:
        folder: an empty folder.
        nodes: the names of the nodes that may register.

    Attributes:
        url: of the API server.
        ca_file: the certificate of the authority that has issued the API server's.
        token: of an administrator, for the header Authorization.
        tokens: of each user.
        authority: issues the certificates of the nodes' servers.
        api: a client as the administrator.

    Raises:
        NoKubernetes: a program is missing.
        KubernetesFailed: a program does not start.
    """

    def __init__(self, folder: Path, nodes: tuple[str, ...]) -> None:
        self._programs = find_programs()
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port, *self._etcd_ports = free_ports(3)
        self.url = f"https://127.0.0.1:{self._port}"
        self.authority = Authority(folder)
        self.ca_file = self.authority.ca_file
        self._certificate, self._key = self.authority.issue("kube-apiserver")
        self._account_key = self.authority.new_key("service-accounts")
        self._admin = self.authority.issue(ADMIN, MASTERS)
        groups = {ADMIN: MASTERS, SCHEDULER: "", MANAGER: ""}
        groups |= {f"system:node:{name}": NODES for name in nodes}
        self.tokens = {user: secrets.token_hex(16) for user in groups}
        self.token = self.tokens[ADMIN]
        lines = [f'{self.tokens[user]},{user},{user},"{group}"' for user, group in groups.items()]
        self._write("tokens.csv", "\n".join(lines))
        self.api = Api(self.url, self.ca_file, self.token)
        try:
            self._start_etcd()
            self.start_api()
            self._start_scheduler()
            self._start_controllers()
            self.wait_until(self._has_accounts, "the service accounts")
        except BaseException:
            self.close()
            raise

    def kubeconfig(
        self,
        path: str | Path,
        *,
        namespace: str = "default",
        certificate: bool = False,
        token: str | None = None,
    ) -> Path:
        """Write a kubeconfig file.

        Args:
            path: of the file.
            namespace: of requests that name none.
            certificate: the user is the administrator with a certificate, not with a token.
            token: the user's; by default the administrator's.

        Returns:
            The path.
        """
        user: dict[str, str] = {"token": token or self.token}
        if certificate:
            keys = ("client-certificate-data", "client-key-data")
            user = {key: _base64(file) for key, file in zip(keys, self._admin, strict=True)}
        server = {"server": self.url, "certificate-authority-data": _base64(self.ca_file)}
        context = {"cluster": "tests", "user": "tests", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": server}],
            "users": [{"name": "tests", "user": user}],
            "contexts": [{"name": "tests", "context": context}],
            "current-context": "tests",
        }
        return self._write(path, yaml.safe_dump(config))

    def tls(self) -> ssl.SSLContext:
        """Return the settings of a client's connections to the API server."""
        return ssl.create_default_context(cafile=self.ca_file)

    def service_account_token(self, namespace: str, name: str) -> str:
        """Return a token of a service account that exists."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str(self.api.create(path, request)["status"]["token"])

    def start_api(self) -> None:
        """Start the API server, and wait until it is ready."""
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_ports[0]}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--cert-dir={self._folder}",
            f"--tls-cert-file={self._certificate}",
            f"--tls-private-key-file={self._key}",
            f"--client-ca-file={self.ca_file}",
            f"--token-auth-file={self._folder}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._account_key}",
            f"--service-account-signing-key-file={self._account_key}",
            "--service-cluster-ip-range=192.0.2.0/24",  # for documentation: no host has them
            # Only stable APIs: that takes a third off the processor time of the start. This one has
            # become stable in the next version.
            "--runtime-config=api/beta=false,policy/v1beta1=true",
            "--feature-gates=APIPriorityAndFairness=false",
        )
        self.wait_until(self._api_is_ready, "the API server")

    def kill_api(self) -> None:
        """Kill the API server; etcd keeps the objects."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()

    def wait_until(self, condition: Callable[[], bool], parts: str) -> None:
        """Wait while the programs start.

        Raises:
            KubernetesFailed: one has ended, or it takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            ended = [name for name, one in self._processes.items() if one.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "".join(
                    f"\n{path.name}: {path.read_text(errors='replace')[-1500:]}"
                    for path in self._folder.glob("*.log")
                    if not ended or path.stem in ended
                )
                raise KubernetesFailed(
                    f"Kubernetes does not start, waiting for {parts}; ended: {ended}{logs}"
                )
            time.sleep(0.05)

    def close(self) -> None:
        """End the programs by their ids."""
        self.api.close()
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        self._start(
            "etcd",
            f"--data-dir={self._folder}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )

    def _start_scheduler(self) -> None:
        self._start("kube-scheduler", *self._options(SCHEDULER))

    def _start_controllers(self) -> None:
        self._start(
            "kube-controller-manager",
            *self._options(MANAGER),
            f"--service-account-private-key-file={self._account_key}",
            f"--root-ca-file={self.ca_file}",
            "--use-service-account-credentials",
            "--node-monitor-period=1s",
            f"--node-monitor-grace-period={GRACE_SECONDS}s",
            "--node-eviction-rate=100",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )

    def _options(self, user: str) -> list[str]:
        name = user.removeprefix("system:")
        path = self.kubeconfig(f"{self._folder}/{name}.kubeconfig", token=self.tokens[user])
        # They have no servers of their own.
        return [f"--kubeconfig={path}", "--leader-elect=false", "--port=0", "--secure-port=0"]

    def _start(self, name: str, *options: str) -> None:
        with open(self._folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._programs[name], *options],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self._folder)},
                start_new_session=True,
                preexec_fn=end_with_tests,
            )

    def _api_is_ready(self) -> bool:
        try:
            return str(self.api.get("/readyz")) == "ok"
        except (httpx.TransportError, ApiError):
            return False

    def _has_accounts(self) -> bool:
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        return self.api.exists(account) and bool(self.api.get(account).get("secrets"))

    def _write(self, path: str | Path, text: str) -> Path:
        path = self._folder / path
        path.touch(0o600)
        path.write_text(text)
        return path


def end_with_tests(number: signal.Signals = signal.SIGKILL) -> None:
    """Let this process get a signal when the tests end, even if they are killed."""
    prctl(PR_SET_PDEATHSIG, number)


def free_ports(count: int) -> list[int]:
    """Return free ports outside the ranges from which systems choose ports for others."""
    found: set[int] = set()
    while len(found) < count:
        port = 10000 + secrets.randbelow(20000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


def _base64(path: str) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()
