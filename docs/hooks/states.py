"""Writes the tables of states into docs/explanation/states.md: ``python -m docs.hooks.states``.

They are made from the tables that the package runs by. tests/test_docs.py fails when the page
differs from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from kernelproto.supervise.states import LIFE
from kernelproto.wire.transitions import (
    REPLY_AND_IDLE,
    REPLY_IDLE_AND_SILENCE,
    REPLY_ONLY,
)

PAGE = Path(__file__).parents[1] / "explanation" / "states.md"

TABLES: Mapping[str, Mapping[StrEnum, Mapping[StrEnum, StrEnum]]] = {
    "kernel": LIFE,
    "execution": REPLY_AND_IDLE,
    "execution-with-silence": REPLY_IDLE_AND_SILENCE,
    "other-request": REPLY_ONLY,
}

_END = "<!-- end -->"


def fill(page: str) -> str:
    """Return the text of the page with each table, and its diagram, between its markers.

    Raises:
        ValueError: the page lacks the markers of a table.
    """
    for name, table in TABLES.items():
        begin = f"<!-- states: {name} -->\n"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(_END)
        if not (found and closed):
            raise ValueError(f"{PAGE} has no place for the states {name!r}: {begin.strip()} {_END}")
        page = f"{before}{begin}{_table(table)}\n\n{_diagram(table)}\n{_END}{after}"
    return page


def _table(table: Mapping[StrEnum, Mapping[StrEnum, StrEnum]]) -> str:
    """Return a Markdown table: a row for each state, a column for each event that changes one."""
    used = {event for events in table.values() for event in events}
    columns = [event for event in type(next(iter(used))) if event in used]
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [
        [f"**{state}**", *(events.get(event, "") for event in columns)]
        for state, events in table.items()
    ]
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in rows)


def _diagram(table: Mapping[StrEnum, Mapping[StrEnum, StrEnum]]) -> str:
    """Return a line for each change of state, indented as a block of Markdown."""
    steps: dict[tuple[str, str], list[str]] = {}
    for state, events in table.items():
        for event, target in events.items():
            if target is not state:
                steps.setdefault((state, target), []).append(event)
    width = max(len(state) for state, _ in steps)
    labels = [" or ".join(events) for events in steps.values()]
    longest = max(map(len, labels))
    return "\n".join(
        f"    {state:<{width}} --{label:-<{longest}}--> {target}"
        for (state, target), label in zip(steps, labels, strict=True)
    )


def main() -> None:
    """Write the page."""
    PAGE.write_text(fill(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
