"""Generate the tables of the server's settings and of their environment variables in the docs."""

from __future__ import annotations

from typing import Any

from kernelproto.server.isolation_settings import IsolationSettings
from kernelproto.server.limits import LimitTables
from kernelproto.server.settings_options import OPTIONS

_PLACE = "<!-- settings -->"
_VARIABLES_PLACE = "<!-- settings variables -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the placeholders of a page, if any, with the tables."""
    return markdown.replace(_PLACE, _table()).replace(_VARIABLES_PLACE, variable_rows())


def _table() -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for option in OPTIONS.values():
        others = "".join(f"; also `{variable}`" for variable in option.variables[1:])
        rows.append(f"| `{option.key}` | {_shown(option.default)} | {option.description}{others} |")
    return "\n".join(rows)


def variable_rows() -> str:
    """Return a row for each environment variable of the server, without a header."""
    return "\n".join(
        f"| {', '.join(f'`{variable}`' for variable in option.variables)} | server | "
        f"`{option.key}`: {option.description} |"
        for option in OPTIONS.values()
        if option.variables
    )


def _shown(value: object) -> str:
    match value:
        case None | [] | LimitTables() | IsolationSettings():
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case _:
            return f"`{value}`"
