"""The settings of a server, and combinations that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from kernelproto.exceptions import InvalidSettings
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.server.isolation_settings import IsolationSettings
from kernelproto.server.settings import Settings


def test_defaults() -> None:
    assert (Settings().max_kernels, Settings().idle_timeout) == (50, 1800.0)


@pytest.mark.parametrize(
    ("settings", "has_groups"),
    [
        ({"authentication": "token"}, False),
        ({"authentication": "file", "token_file": "x"}, True),
        ({"authentication": "proxy", "trusted_proxies": ["::1"]}, False),
        (
            {
                "authentication": "proxy",
                "trusted_proxies": ["::1"],
                "proxy_groups_header": "X-Groups",
            },
            True,
        ),
    ],
)
def test_users_have_groups(settings, has_groups: bool) -> None:
    assert Settings(**settings).users_have_groups is has_groups


def test_repr_has_no_secret() -> None:
    settings = Settings(token="s3cret", metrics_token="s4cret", port=1)
    assert "s3cret" not in repr(settings)
    assert "s4cret" not in repr(settings)
    assert "token='...'" in repr(settings)
    assert "port=1," in repr(settings)
    assert "token=None" in repr(Settings())


@pytest.mark.parametrize(
    ("host", "is_reachable"),
    [
        ("127.0.0.1", False),
        ("127.1.2.3", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("", True),
        ("server.test", True),
        ("localhost.evil.test", True),
    ],
)
def test_other_machines_need_authentication(host: str, is_reachable: bool) -> None:
    Settings(host=host)
    if is_reachable:
        with pytest.raises(InvalidSettings, match="host"):
            Settings(host=host, authentication="none")
    else:
        Settings(host=host, authentication="none")


def test_key_needs_a_certificate() -> None:
    with pytest.raises(InvalidSettings, match="certfile"):
        Settings(keyfile="key.pem")


def test_mcp_and_isolated_users_go_together() -> None:
    isolation = IsolationSettings(uids="accounts")
    settings = Settings(isolate="users", isolation=isolation, mcp=True, mcp_sandbox=Sandbox())
    assert settings.mcp


@pytest.mark.parametrize(
    "other", [{"mcp_kernels": ["python3"]}, {"mcp_dir": "/srv"}, {"mcp_sandbox": Sandbox()}]
)
def test_settings_of_mcp_without_mcp_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings, match="set mcp = true as well"):
        Settings(**other)


def test_range_of_users_in_the_sandbox_of_mcp_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"mcp_sandbox\.uid: set one number"):
        Settings(mcp=True, mcp_sandbox=Sandbox(uid="200000-299999"))


REGISTRY = "postgresql://kernels@db.test/kernels"


def test_servers_share_a_registry() -> None:
    for url in ("http://10.0.0.2:8888", "https://node.test", "http://[::1]:8888"):
        assert Settings(registry=REGISTRY, node_url=url).node_url == url


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"registry": None}, "node_url: set registry"),
        ({"node_url": "10.0.0.2:8888"}, "node_url: write http://HOST:PORT"),
        ({"node_url": "http://a/kernels"}, "node_url: write http://HOST:PORT"),
        ({"node_url": "http://ada:secret@a"}, "node_url: write http://HOST:PORT"),
        ({"mcp": True}, "mcp: a conversation belongs to one server"),
    ],
)
def test_servers_that_cannot_share_a_registry(settings: dict[str, Any], words: str) -> None:
    shared = {"registry": REGISTRY, "node_url": "http://10.0.0.2:8888"}
    with pytest.raises(InvalidSettings, match=words):
        Settings(**shared | settings)


def test_providers_have_tables_unless_they_have_settings() -> None:
    kernels = {"python": {"image": "an/image"}}
    assert Settings(providers={"kubernetes": {"kernels": kernels}}).providers["kubernetes"]
    with pytest.raises(InvalidSettings, match=r"providers\.ssh: use the setting ssh_hosts"):
        Settings(providers={"ssh": {}})
