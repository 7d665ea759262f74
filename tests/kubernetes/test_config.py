from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from kernelproto.exceptions import LaunchError
from kernelproto.kubernetes import config
from kernelproto.kubernetes.config import load_access
from kernelproto.kubernetes.keys import KeyPair, new_key_pair


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return new_key_pair("ca")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def kubeconfig(
    pair: KeyPair, *, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None
) -> dict[str, Any]:
    default = {
        "server": "https://127.0.0.1:6443/",
        "certificate-authority-data": encoded(pair.certificate),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "contexts": [
            {"name": "main", "context": {"cluster": "c", "user": "u", "namespace": "kernels"}},
            {"name": "other", "context": {"cluster": "c", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": {**default, **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "secret"} if user is None else user}],
    }


def write(path: Path, value: object) -> str:
    path.write_text(yaml.safe_dump(value))
    return str(path)


def test_context_chooses_cluster_and_namespace(pair: KeyPair, tmp_path: Path) -> None:
    path = write(tmp_path / "config", kubeconfig(pair))
    access = load_access(path, None)
    assert (access.server, access.namespace) == ("https://127.0.0.1:6443", "kernels")
    assert anyio.run(access.headers) == {"Authorization": "Bearer secret"}
    assert load_access(path, "other").namespace == "default"


def test_variable_names_the_file(pair: KeyPair, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KUBECONFIG", write(tmp_path / "config", kubeconfig(pair)))
    assert load_access(None, None).namespace == "kernels"
    monkeypatch.setenv("KUBECONFIG", "/a:/b")
    with pytest.raises(LaunchError, match="names several files"):
        load_access(None, None)


def test_certificates_and_tokens_in_files(pair: KeyPair, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(pair.certificate)
    (tmp_path / "key.pem").write_text(pair.key)
    (tmp_path / "token").write_text("first\n")
    cluster = {"certificate-authority-data": "", "certificate-authority": "ca.pem"}
    user = {"client-certificate": "ca.pem", "client-key": "key.pem", "tokenFile": "token"}
    path = write(tmp_path / "config", kubeconfig(pair, cluster=cluster, user=user))
    access = load_access(path, None)
    assert len(access.tls.get_ca_certs()) == 1
    assert anyio.run(access.headers) == {"Authorization": "Bearer first"}
    (tmp_path / "token").write_text("second\n")
    assert anyio.run(access.headers) == {"Authorization": "Bearer first"}

    async def anew() -> dict[str, str]:
        return await access.headers(anew=True)

    assert anyio.run(anew) == {"Authorization": "Bearer second"}


@pytest.mark.parametrize(
    ("cluster", "user", "message"),
    [
        ({}, {"exec": {"command": "aws"}}, "gets credentials from a program"),
        ({}, {"username": "a"}, "has a password"),
        ({"insecure-skip-tls-verify": True}, {}, "insecure-skip-tls-verify"),
        ({"proxy-url": "http://p"}, {}, "proxy-url"),
        ({"server": "http://a"}, {}, "not reached by https"),
        ({"certificate-authority-data": "!"}, {}, "cannot be used"),
        ({"certificate-authority-data": encoded("x")}, {}, "cannot be used"),
        ({}, {"client-certificate": "/nowhere", "client-key": "/nowhere"}, "cannot read"),
    ],
)
def test_settings_that_are_not_supported(
    pair: KeyPair, tmp_path: Path, cluster: Any, user: Any, message: str
) -> None:
    path = write(tmp_path / "config", kubeconfig(pair, cluster=cluster, user=user))
    with pytest.raises(LaunchError, match=message):
        load_access(path, None)


@pytest.mark.parametrize("text", ["[", "clusters: 1", "a: !!python/object/apply:os.system [x]", ""])
def test_files_that_are_no_kubeconfig(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(LaunchError, match="cannot be used"):
        load_access(str(path), None)


def test_missing_file_and_context(pair: KeyPair, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"cannot read .*nowhere"):
        load_access("/nowhere/config", None)
    with pytest.raises(LaunchError, match="it has no context 'x'"):
        load_access(write(tmp_path / "config", kubeconfig(pair)), "x")


def test_service_account_of_the_pod(pair: KeyPair, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(config, "SERVICE_ACCOUNT", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(LaunchError, match="automountServiceAccountToken"):
        load_access(None, None)
    (tmp_path / "ca.crt").write_text(pair.certificate)
    (tmp_path / "namespace").write_text("kernels")
    (tmp_path / "token").write_text("secret")
    access = load_access(None, None)
    assert (access.server, access.namespace) == ("https://[fd00::1]:443", "kernels")
    assert anyio.run(access.headers) == {"Authorization": "Bearer secret"}
