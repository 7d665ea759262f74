"""Load settings from a file, the environment and the command line.

The environment overrides the file, and the command line overrides both. An error about a value
names the setting and the source.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, MutableMapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import msgspec

from kernelproto.exceptions import InvalidSettings
from kernelproto.server.settings import Settings
from kernelproto.server.settings_options import OPTIONS, Option

# Variables that kernels never inherit from the server.
_SECRET_VARIABLES = (
    "KERNELPROTO_*TOKEN*",
    "CONFIGPROXY_AUTH_TOKEN",
    "CREDENTIALS_DIRECTORY",
    "JPY_API_TOKEN",
    "JUPYTERHUB_API_TOKEN",
    "JUPYTERHUB_COOKIE_SECRET",
    "JUPYTERHUB_CRYPT_KEY",
    "JUPYTER_TOKEN",
)

_YES_NO = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def load_settings(
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    arguments: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings; a later source overrides an earlier one.

    Args:
        file: a TOML file with the names of settings as keys.
        environ: environment variables: ``KERNELPROTO_`` and the name in upper case, or a name from
            another kernel server. An empty variable counts as not set.
        arguments: values from the command line, by name.

    Raises:
        InvalidSettings: a value is invalid; the message names the setting and the source.
    """
    values: dict[str, object] = {}
    for key, value in _read(file).items() if file else ():
        if key not in OPTIONS:
            raise InvalidSettings(f"{key}: there is no such setting: remove it from {file}")
        values[key] = _convert(OPTIONS[key], value, f"in {file}", strict=True)
    for option in OPTIONS.values():
        for variable in option.variables:
            if environ is not None and environ.get(variable):
                text = environ[variable]
                values[option.key] = _convert(option, text, f"from {variable}", strict=False)
                break
    for key, text in () if arguments is None else arguments.items():
        values[key] = _convert(OPTIONS[key], text, "on the command line", strict=False)
    return Settings(**cast("dict[str, Any]", values))


def remove_secrets(environ: MutableMapping[str, str], settings: Settings) -> None:
    """Remove the server's secrets from the environment, so that kernels do not inherit them.

    Args:
        environ: the environment. Load the settings first.
        settings: ``hide_env`` names further variables.
    """
    secrets = {name for option in OPTIONS.values() if option.secret for name in option.variables}
    patterns = [*secrets, *_SECRET_VARIABLES, *settings.hide_env]
    for name in [name for name in environ if any(fnmatchcase(name, p) for p in patterns)]:
        del environ[name]


def _read(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise InvalidSettings(f"cannot read the settings in {file}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidSettings(f"cannot read the settings in {file}: {error}") from error


def _convert(option: Option, value: object, source: str, *, strict: bool) -> object:
    """Return the value as the setting's type; without *strict*, parse text."""
    if not strict and isinstance(value, str):
        if isinstance(option.default, list):
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif isinstance(option.default, bool):
            value = _YES_NO.get(value.lower(), value)
    try:
        return msgspec.convert(value, option.kind, strict=strict)
    except msgspec.ValidationError as error:
        # The message must not repeat the value, which may be a secret.
        raise InvalidSettings(f"{option.key} {source}: {error}") from None
