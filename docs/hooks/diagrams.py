"""Draw the diagrams of the layers and of a request.

``<!-- diagram: layers -->`` and ``<!-- diagram: request -->`` on a page become HTML and SVG with
the colours of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

# From top to bottom: number and parts of each layer. tests/test_docs.py compares them with the
# layers of tests/test_layers.py.
LAYERS: Sequence[tuple[int, Sequence[str]]] = (
    (9, ("cli",)),
    (8, ("server", "pytest_plugin")),
    (7, ("notebook", "pool", "blocking")),
    (6, ("run", "fanout")),
    (5, ("supervise", "testing")),
    (4, ("client", "launch")),
    (3, ("transport",)),
    (2, ("interfaces", "log_counts", "log_fields", "shortage", "terminal")),
    (1, ("wire", "concurrency")),
    (0, ("exceptions", "extras", "timeouts")),
)


class Step(NamedTuple):
    """An arrow of the diagram of a request.

    Attributes:
        source: the actor at which the arrow begins.
        target: the actor at which it ends; the same one for work of its own.
        text: shown above the arrow.
        reply: whether to draw it dashed.
    """

    source: str
    target: str
    text: str
    reply: bool = False


ACTORS = ("your task", "client", "kernel")

REQUEST = (
    Step("your task", "client", 'execute("6 * 7")'),
    Step("your task", "client", "await: send it"),
    Step("client", "client", "register and sign the request"),
    Step("client", "kernel", "shell: execute_request"),
    Step("kernel", "client", 'iopub: status "busy"', reply=True),
    Step("kernel", "client", "iopub: outputs", reply=True),
    Step("client", "client", "verify, find the request, store"),
    Step("client", "your task", "each output, if you iterate", reply=True),
    Step("kernel", "client", "shell: execute_reply", reply=True),
    Step("kernel", "client", 'iopub: status "idle"', reply=True),
    Step("client", "your task", "ExecutionResult", reply=True),
)

# In the units of the drawing: a character of the text is about seven wide.
_WIDTH, _ROW, _TOP = 620, 40, 44
_COLUMNS = {"your task": 70, "client": 310, "kernel": 550}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the placeholders of a page with diagrams."""
    for name, draw in {"layers": layers, "request": request}.items():
        place = f"<!-- diagram: {name} -->"
        if place in markdown:
            markdown = markdown.replace(place, draw())
    return markdown


def layers() -> str:
    """Return the stack of layers as HTML."""
    rows = "".join(
        f"<div><b>{number}</b>{''.join(f'<code>{part}</code>' for part in parts)}</div>"
        for number, parts in LAYERS
    )
    caption = "A part imports from the layers below it, and never upwards."
    return f'<figure class="kp-layers">{rows}<figcaption>{caption}</figcaption></figure>'


def request() -> str:
    """Return the messages of an execution as a sequence diagram in SVG."""
    height = _TOP + _ROW * len(REQUEST) + 12
    parts = [
        f'<line x1="{x}" x2="{x}" y1="30" y2="{height}" class="kp-life"/>'
        f'<rect x="{x - 60}" y="2" width="120" height="28" rx="4"/>'
        f'<text x="{x}" y="21">{escape(actor)}</text>'
        for actor, x in _COLUMNS.items()
    ]
    parts += [_arrow(step, _TOP + _ROW * number + 22) for number, step in enumerate(REQUEST)]
    title = "The messages of one execution, from execute() to its result"
    return (
        '<figure class="kp-sequence">'
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">'
        '<defs><marker id="kp-head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"'
        ' markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        f"{''.join(parts)}</svg></figure>"
    )


def _arrow(step: Step, y: int) -> str:
    start, end = _COLUMNS[step.source], _COLUMNS[step.target]
    text = escape(step.text)
    if start == end:
        return (
            f'<rect class="kp-work" x="{start - 115}" y="{y - 20}" width="230" height="26" rx="4"/>'
            f'<text x="{start}" y="{y - 3}">{text}</text>'
        )
    dashed = ' class="kp-reply"' if step.reply else ""
    return (
        f'<line x1="{start}" x2="{end}" y1="{y}" y2="{y}" marker-end="url(#kp-head)"{dashed}/>'
        f'<text x="{(start + end) // 2}" y="{y - 7}">{text}</text>'
    )
