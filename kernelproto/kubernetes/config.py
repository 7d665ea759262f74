"""The access to a cluster: a kubeconfig file, or the service account of the pod of this program."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import msgspec

from kernelproto.exceptions import LaunchError
from kernelproto.extras import importing

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

_HOST_VARIABLE = "KUBERNETES_SERVICE_HOST"
_PORT_VARIABLE = "KUBERNETES_SERVICE_PORT"

# Kubernetes renews the token of a service account in its file long before it expires.
_TOKEN_SECONDS = 60.0


class Access:
    """The address of the API of a cluster, and the credentials of this program.

    Args:
        server: the URL.
        namespace: the namespace of the context, or of the pod of this program.
        tls: verifies the certificate of the API, and may have a client certificate.
        token: a bearer token; None without one.
        token_file: a file with a bearer token, which is read again once a minute; None without one.
    """

    def __init__(
        self,
        server: str,
        *,
        namespace: str,
        tls: ssl.SSLContext,
        token: str | None = None,
        token_file: str | None = None,
    ) -> None:
        self.server = server
        self.namespace = namespace
        self.tls = tls
        self._token = token
        self._token_file = token_file
        self._read_at = float("-inf")

    async def headers(self, *, anew: bool = False) -> dict[str, str]:
        """Return the headers that authenticate a request; their representation has the token.

        Args:
            anew: whether the token was refused, so that it has to be read again.

        Raises:
            LaunchError: the file of the token cannot be read.
        """
        now = time.monotonic()
        if self._token_file and (anew or now - self._read_at > _TOKEN_SECONDS):
            self._token = (await anyio.to_thread.run_sync(_read, self._token_file)).strip()
            self._read_at = now
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}


def load_access(kubeconfig: str | None, context: str | None) -> Access:
    """Find a cluster; the call blocks.

    Without a path this is the cluster of the pod of this program, if it runs in one. Otherwise it
    is the file that the environment variable KUBECONFIG names, or ``~/.kube/config``.

    Args:
        kubeconfig: the path of a kubeconfig file.
        context: the name of a context in it; by default its current one.

    Raises:
        LaunchError: there is no cluster, or the file has what this program does not support.
    """
    if kubeconfig is None and context is None and _HOST_VARIABLE in os.environ:
        return _in_cluster()
    path = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    path = os.path.expanduser(path)
    if os.pathsep in path and kubeconfig is None:
        raise LaunchError(
            "KUBECONFIG names several files, which is not supported: set 'kubeconfig' of "
            "the provider 'kubernetes' to one of them"
        )
    return _from_file(path, context)


def _in_cluster() -> Access:
    host, port = os.environ[_HOST_VARIABLE], os.environ.get(_PORT_VARIABLE, "443")
    host = f"[{host}]" if ":" in host else host
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        tls.load_verify_locations(f"{SERVICE_ACCOUNT}/ca.crt")
    except OSError as error:
        raise LaunchError(
            f"cannot read the certificate of the cluster in {SERVICE_ACCOUNT!r}: {error}; set "
            "automountServiceAccountToken of the pod of this program"
        ) from error
    return Access(
        f"https://{host}:{port}",
        namespace=_read(f"{SERVICE_ACCOUNT}/namespace").strip(),
        tls=tls,
        token_file=f"{SERVICE_ACCOUNT}/token",
    )


class _Cluster(msgspec.Struct):
    """The fields of a cluster in a kubeconfig file."""

    server: str
    certificate_authority: str = msgspec.field(default="", name="certificate-authority")
    certificate_authority_data: str = msgspec.field(default="", name="certificate-authority-data")
    insecure: bool = msgspec.field(default=False, name="insecure-skip-tls-verify")
    proxy: str = msgspec.field(default="", name="proxy-url")
    tls_server_name: str = msgspec.field(default="", name="tls-server-name")


class _User(msgspec.Struct):
    """The fields of a user."""

    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    certificate: str = msgspec.field(default="", name="client-certificate")
    certificate_data: str = msgspec.field(default="", name="client-certificate-data")
    key: str = msgspec.field(default="", name="client-key")
    key_data: str = msgspec.field(default="", name="client-key-data")
    exec: Mapping[str, Any] | None = None
    auth_provider: Mapping[str, Any] | None = msgspec.field(default=None, name="auth-provider")
    username: str = ""
    impersonated: str = msgspec.field(default="", name="as")


class _Context(msgspec.Struct):
    """The fields of a context."""

    cluster: str
    user: str = ""
    namespace: str = "default"


class _Named(msgspec.Struct):
    """An entry of a list."""

    name: str
    cluster: Any = None
    user: Any = None
    context: Any = None


class _Config(msgspec.Struct):
    """A kubeconfig file."""

    clusters: list[_Named]
    contexts: list[_Named]
    users: list[_Named] = []
    current: str = msgspec.field(default="", name="current-context")

    def one(self, kind: str, name: str) -> Any:
        """Return an entry by its name.

        Raises:
            ValueError: there is none.
        """
        for entry in getattr(self, f"{kind}s"):
            if entry.name == name:
                return getattr(entry, kind) or {}
        raise ValueError(f"it has no {kind} {name!r}")


def _from_file(path: str, context_name: str | None) -> Access:
    with importing("kubernetes"):
        import yaml
    try:
        config = msgspec.convert(yaml.safe_load(_read(path)), _Config)
        name = context_name or config.current
        context = msgspec.convert(config.one("context", name), _Context)
        cluster = msgspec.convert(config.one("cluster", context.cluster), _Cluster)
        user = msgspec.convert(config.one("user", context.user) if context.user else {}, _User)
        _refuse_unsupported(cluster, user)
        folder = os.path.dirname(os.path.abspath(path))
        return Access(
            cluster.server.rstrip("/"),
            namespace=context.namespace,
            tls=_tls(cluster, user, folder),
            token=user.token or None,
            token_file=os.path.join(folder, user.token_file) if user.token_file else None,
        )
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise LaunchError(f"the kubeconfig file {path!r} cannot be used: {error}") from error


def _refuse_unsupported(cluster: _Cluster, user: _User) -> None:
    if user.exec or user.auth_provider:
        raise ValueError(
            "its user gets credentials from a program, which is not supported: use a token, a "
            "client certificate or a service account"
        )
    if user.username or user.impersonated:
        raise ValueError("its user has a password or impersonates another user: not supported")
    if cluster.insecure or cluster.proxy or cluster.tls_server_name:
        raise ValueError(
            "insecure-skip-tls-verify, proxy-url and tls-server-name of its cluster are not "
            "supported"
        )
    if urlsplit(cluster.server).scheme != "https":
        raise ValueError(f"its server {cluster.server!r} is not reached by https")


def _tls(cluster: _Cluster, user: _User, folder: str) -> ssl.SSLContext:
    if cluster.certificate_authority_data:
        data = _decoded(cluster.certificate_authority_data)
        tls = ssl.create_default_context(cadata=data)
    elif cluster.certificate_authority:
        authority = os.path.join(folder, cluster.certificate_authority)
        tls = ssl.create_default_context(cafile=authority)
    else:
        tls = ssl.create_default_context()
    # The certificates of some clusters are older than these rules.
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if user.certificate_data or user.certificate:
        certificate = _pem(user.certificate_data, user.certificate, folder)
        load_key_pair(tls, certificate, _pem(user.key_data, user.key, folder))
    return tls


def _pem(data: str, path: str, folder: str) -> str:
    return _decoded(data) if data else _read(os.path.join(folder, path))


def _decoded(data: str) -> str:
    return base64.b64decode("".join(data.split()), validate=True).decode()


def load_key_pair(tls: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load a certificate and its key, which ssl reads from files alone; the call blocks.

    Raises:
        OSError: they are not valid, or there is no room for the file.
    """
    with tempfile.TemporaryDirectory(prefix="kernelproto-") as folder:
        path = os.path.join(folder, "pair.pem")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"{certificate}\n{key}\n")
        tls.load_cert_chain(path)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeError) as error:
        raise LaunchError(f"cannot read {path!r}: {error}") from error
