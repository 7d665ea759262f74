"""The authenticator that the settings choose."""

from __future__ import annotations

import sys

import pytest

from kernelproto.exceptions import InvalidSettings
from kernelproto.server import (
    Anybody,
    HubToken,
    OidcToken,
    ProxyHeader,
    Settings,
    Shared,
    SingleUserToken,
)
from kernelproto.server.auth.from_settings import make_authenticator


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (Settings(), SingleUserToken),
        (Settings(token="mine"), SingleUserToken),
        (Settings(authentication="proxy", trusted_proxies=["10.0.0.1"]), ProxyHeader),
        (Settings(authentication="none"), Anybody),
        (Settings(authentication="hub", hub_api_url="http://127.0.0.1:8081/hub/api"), HubToken),
        (
            Settings(
                authentication="oidc", oidc_issuer="https://login.test", oidc_audience=["kernels"]
            ),
            OidcToken,
        ),
        (Settings(multi_user=False), Shared),
    ],
)
def test_settings_choose_the_authenticator(settings: Settings, kind: type) -> None:
    authenticator, token = make_authenticator(settings)
    assert isinstance(authenticator, kind)
    assert (token is not None) == (settings.authentication == "token" and not settings.token)


def test_error_names_the_missing_package_of_oidc(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "kernelproto.server.auth.oidc", None)
    settings = Settings(
        authentication="oidc", oidc_issuer="https://login.test", oidc_audience=["kernels"]
    )
    with pytest.raises(InvalidSettings, match=r'pip install "kernelproto\[oidc\]"'):
        make_authenticator(settings)
