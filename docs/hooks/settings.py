"""Generate the table of the server's settings in the docs."""

from __future__ import annotations

from typing import Any

from kernelproto.server.limits import LimitTables
from kernelproto.server.settings_options import OPTIONS

_PLACE = "<!-- settings -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the placeholder of a page, if any, with the table."""
    return markdown.replace(_PLACE, _table()) if _PLACE in markdown else markdown


def _table() -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for option in OPTIONS.values():
        others = "".join(f"; also `{variable}`" for variable in option.variables[1:])
        rows.append(f"| `{option.key}` | {_shown(option.default)} | {option.description}{others} |")
    return "\n".join(rows)


def _shown(value: object) -> str:
    match value:
        case None | [] | LimitTables():
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case _:
            return f"`{value}`"
