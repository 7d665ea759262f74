"""The description of each setting, for the command line, the environment and the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Meta

from kernelproto.server.settings import Settings, is_secret

_PREFIX = "KERNELPROTO_"

# Further variables, named as in other kernel servers and in JupyterHub.
_OTHER_VARIABLES = {
    "multi_user": "MULTI_USER_JUPYTER_KERNELS",
    "idle_timeout": "JUPYTER_KERNEL_IDLE_TIMEOUT_SECONDS",
    "max_kernels": "JUPYTER_KERNEL_MAX_PER_SERVER",
    "hub_api_url": "JUPYTERHUB_API_URL",
}


class Option(NamedTuple):
    """The description of one setting.

    Attributes:
        key: the name in a file.
        variables: the environment variables; the first one that is set counts.
        kind: the type, as an annotation.
        default: the default value.
        description: the help text.
        secret: whether the value must not be shown.
        table: whether the setting can only be set in a file.
    """

    key: str
    variables: Sequence[str]
    kind: Any
    default: object
    description: str
    secret: bool
    table: bool


def _option(field: msgspec.structs.FieldInfo) -> Option:
    meta: Meta = field.type.__metadata__[0]
    table = bool((meta.extra or {}).get("table"))
    variables = [] if table else [_PREFIX + field.name.upper()]
    if field.name in _OTHER_VARIABLES:
        variables.append(_OTHER_VARIABLES[field.name])
    return Option(
        key=field.name,
        variables=variables,
        kind=field.type,
        default=field.default if field.default is not msgspec.NODEFAULT else [],
        description=meta.description or "",
        secret=is_secret(field),
        table=table,
    )


OPTIONS: Mapping[str, Option] = {
    field.name: _option(field) for field in msgspec.structs.fields(Settings)
}
