"""Parse the date of a request by a function in C.

jupyter_client parses the dates in the headers of each request by a parser in Python. The result is
the same: equal, with the same time zone object.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from .hook import Hook, Need, find

JSONUTIL = "jupyter_client.jsonutil"


def parse_in_c(_: Any) -> None:
    """Replace the parser of dates."""
    module = find(JSONUTIL)
    module._dateutil_parse = parsing(module._dateutil_parse, find("dateutil.tz").tzutc())


def parsing(stock: Callable[[str], datetime], utc: Any) -> Callable[[str], datetime]:
    """Return a function that parses a date.

    Args:
        stock: the parser for dates that do not end with Z.
        utc: the time zone of the others.
    """

    def parse(text: str) -> datetime:
        if text[-1:] == "Z":
            try:
                return datetime.fromisoformat(text[:-1]).replace(tzinfo=utc)
            except ValueError:
                pass
        return stock(text)

    return parse


HOOK = Hook(
    name="dates",
    needs=[
        Need(f"{JSONUTIL}:parse_date", "s", "ISO8601_PAT match _dateutil_parse"),
        Need(f"{JSONUTIL}:_dateutil_parse", "self, dt_str"),
        Need("dateutil.tz:tzutc.utcoffset", "self, dt"),
    ],
    install=parse_in_c,
)
