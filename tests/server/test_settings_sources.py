"""Settings from a file, the environment and the command line."""

from __future__ import annotations

import pytest

from kernelproto.exceptions import InvalidSettings
from kernelproto.server.limits import KernelLimits, LimitTables, UserLimits
from kernelproto.server.settings import Settings
from kernelproto.server.settings_sources import load_settings, remove_secrets


@pytest.fixture
def settings_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return str(path)

    return write


def test_no_source_gives_the_defaults() -> None:
    assert load_settings() == Settings()


def test_command_line_overrides_environment_which_overrides_file(settings_file) -> None:
    file = settings_file("port = 1\nwarm = 1\nmax_kernels = 1\nallow_env = ['A']")
    environ = {"KERNELPROTO_WARM": "2", "KERNELPROTO_MAX_KERNELS": "2", "KERNELPROTO_HOST": ""}
    settings = load_settings(file, environ, {"max_kernels": "3"})
    assert (settings.port, settings.warm, settings.max_kernels) == (1, 2, 3)
    assert (settings.allow_env, settings.host) == (["A"], "127.0.0.1")


def test_variables_named_as_in_other_servers() -> None:
    environ = {
        "MULTI_USER_JUPYTER_KERNELS": "False",
        "JUPYTER_KERNEL_IDLE_TIMEOUT_SECONDS": "60",
        "JUPYTER_KERNEL_MAX_PER_SERVER": "7",
        "JUPYTERHUB_API_URL": "http://hub.test/hub/api",
    }
    settings = load_settings(environ=environ)
    assert settings.hub_api_url == "http://hub.test/hub/api"
    assert (settings.multi_user, settings.idle_timeout, settings.max_kernels) == (False, 60.0, 7)
    own = load_settings(environ={**environ, "KERNELPROTO_MAX_KERNELS": "8"})
    assert own.max_kernels == 8


@pytest.mark.parametrize(("text", "expected"), [("a, b ,", ["a", "b"]), (" , ", []), ("*", ["*"])])
def test_lists_are_separated_by_commas(text: str, expected: list[str]) -> None:
    assert load_settings(arguments={"allow_origins": text}).allow_origins == expected


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ({"arguments": {"port": "high"}}, ("port", "command line")),
        ({"arguments": {"port": "70000"}}, ("port", "command line")),
        ({"arguments": {"authentication": "cookie"}}, ("authentication",)),
        ({"environ": {"KERNELPROTO_MULTI_USER": "maybe"}}, ("multi_user", "KERNELPROTO_MULTI_U")),
        ({"environ": {"JUPYTER_KERNEL_MAX_PER_SERVER": "0"}}, ("max_kernels", "MAX_PER_SERVER")),
        ({"environ": {"JUPYTER_KERNEL_IDLE_TIMEOUT_SECONDS": "-1"}}, ("idle_timeout",)),
        ({"arguments": {"token": ""}}, ("token",)),
        ({"arguments": {"authentication": "file"}}, ("token_file",)),
        ({"arguments": {"authentication": "hub"}}, ("hub_api_url",)),
        ({"arguments": {"metrics_token": ""}}, ("metrics_token",)),
        ({"arguments": {"log_format": "xml"}}, ("log_format",)),
        ({"arguments": {"starts_per_minute": "-1"}}, ("starts_per_minute",)),
        ({"arguments": {"authentication": "proxy"}}, ("trusted_proxies",)),
        (
            {"arguments": {"authentication": "proxy", "trusted_proxies": "10.0.0.0/33"}},
            ("trusted_proxies", "10.0.0.0/33"),
        ),
    ],
)
def test_error_names_the_setting(source, names) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(**source)
    assert all(name in str(caught.value) for name in names)


def test_tables_of_limits(settings_file) -> None:
    file = settings_file(
        """
        authentication = "hub"
        hub_api_url = "http://hub.test/hub/api"
        [limits.kernels."spec/ir"]
        memory = 4_000_000_000
        [limits.groups.students]
        idle_timeout = 600
        [limits.users.ada]
        max_per_user = 5
        """
    )
    assert load_settings(file).limits == LimitTables(
        kernels={"spec/ir": KernelLimits(memory=4_000_000_000)},
        groups={"students": UserLimits(idle_timeout=600.0)},
        users={"ada": UserLimits(max_per_user=5)},
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[limits.user.ada]", "limits in .*`user`"),
        ("[limits.users.ada]\nmemry = 1", "limits in .*`memry`.*users"),
        ("[limits.users.ada]\nmemory = -1", "limits in .*memory"),
        ("[limits.users.ada]\nidle_timeout = '1'", "limits in .*idle_timeout"),
        ("[limits.users.ada]\nmax_per_user = 0", "limits in .*max_per_user"),
        ("[limits.kernels.ir]\nmax_per_user = 1", "limits in .*`max_per_user`"),
        ("[limits.kernels.ir]\nwarm = -1", "limits in .*warm"),
        ("[limits.users.ada]\nwarm = 1", "limits in .*`warm`"),
        ("multi_user = false\n[limits.users.ada]", "limits.users .* no effect"),
    ],
)
def test_invalid_limits_are_refused(settings_file, text: str, names: str) -> None:
    with pytest.raises(InvalidSettings, match=names):
        load_settings(settings_file(text))


@pytest.mark.parametrize(
    ("text", "names"),
    [("prot = 1", "prot"), ("port = '1'", "port"), ("port = ", "settings.toml")],
)
def test_error_names_the_setting_in_a_file(settings_file, text: str, names: str) -> None:
    with pytest.raises(InvalidSettings, match=names):
        load_settings(settings_file(text))


def test_missing_file() -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings("nowhere.toml")
    reason = "cannot read the settings in nowhere.toml: No such file or directory"
    assert str(caught.value) == reason


def test_error_does_not_repeat_a_secret(settings_file) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(settings_file("token = ['s3cret']"))
    assert "s3cret" not in str(caught.value)


def test_secrets_are_removed_from_the_environment() -> None:
    hidden = [
        "KERNELPROTO_TOKEN",
        "KERNELPROTO_METRICS_TOKEN",
        "KERNELPROTO_ANOTHER_TOKEN_2",
        "JUPYTERHUB_API_TOKEN",
        "CREDENTIALS_DIRECTORY",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
    ]
    kept = ["KERNELPROTO_PORT", "PATH", "JUPYTERHUB_API_URL", "db_password"]
    environ = dict.fromkeys([*hidden, *kept], "x")
    remove_secrets(environ, Settings(hide_env=["AWS_*", "DB_PASSWORD"]))
    assert list(environ) == kept
