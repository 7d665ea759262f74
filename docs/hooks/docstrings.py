"""Convert docstrings to Markdown, beyond Google sections: literal blocks and lists."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_GOOGLES = ("Args", "Attributes", "Raises", "Returns", "Yields")

# A heading, followed by an indented list of names with explanations.
_OTHER_LIST = re.compile(
    r"^(?P<heading>[A-Z][^:\n]*):\n(?P<items>    [^\s:]+: .*\n?(?:    .*\n?)*)", re.M
)
_ITEM = re.compile(r"^    ([^\s:]+): ", re.M)


class Docstrings(Extension):
    """Rewrite the docstrings of a loaded package."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object that has one."""
        if obj.docstring is not None:
            obj.docstring.value = _as_markdown(obj.docstring.value)


def _as_markdown(text: str) -> str:
    text = re.sub(r"^::$", "", text, flags=re.M)
    text = re.sub(r"(?<=\S)::$", ":", text, flags=re.M)
    return _OTHER_LIST.sub(_list, text)


def _list(found: re.Match[str]) -> str:
    if found["heading"] in _GOOGLES:
        return found[0]
    items = re.sub(r"^    (?=    )", "", _ITEM.sub(r"- `\1`: ", found["items"]), flags=re.M)
    return f"{found['heading']}:\n\n{items}"
