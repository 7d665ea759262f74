"""The description of each setting."""

from __future__ import annotations

from kernelproto.server.settings import Settings
from kernelproto.server.settings_options import OPTIONS


def test_every_setting_is_described() -> None:
    assert list(OPTIONS) == list(Settings.__struct_fields__)
    assert all(option.description for option in OPTIONS.values())


def test_own_variable_precedes_that_of_other_servers() -> None:
    assert OPTIONS["port"].variables == ["KERNELPROTO_PORT"]
    assert OPTIONS["max_kernels"].variables == [
        "KERNELPROTO_MAX_KERNELS",
        "JUPYTER_KERNEL_MAX_PER_SERVER",
    ]


def test_secrets_and_tables_are_marked() -> None:
    assert {key for key, option in OPTIONS.items() if option.secret} == {
        "token",
        "metrics_token",
        "registry",
    }
    assert [(key, option.variables) for key, option in OPTIONS.items() if option.table] == [
        ("providers", []),
        ("isolation", []),
        ("limits", []),
        ("mcp_sandbox", []),
    ]
