"""Draw the diagrams of the layers and of a request.

``<!-- diagram: layers -->`` and ``<!-- diagram: request -->`` on a page become HTML and SVG with
the colours of the page.
"""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

# The table that the tests hold the imports against.
LAYERS_SOURCE = Path(__file__).parents[2] / "tests" / "test_layers.py"


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
_WIDTH, _ROW, _TOP = 530, 40, 44
_COLUMNS = {"your task": 65, "client": 265, "kernel": 465}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the placeholders of a page with diagrams."""
    for name, draw in {"layers": layers, "request": request}.items():
        place = f"<!-- diagram: {name} -->"
        if place in markdown:
            markdown = markdown.replace(place, draw())
    return markdown


def layers() -> str:
    """Return the stack of layers as HTML."""
    numbers = layer_numbers(LAYERS_SOURCE.read_text("utf-8"))
    del numbers["__main__"]
    rows = "".join(
        f"<div><b>{layer}</b>"
        f"{''.join(f'<code>{part}</code>' for part, own in numbers.items() if own == layer)}</div>"
        for layer in sorted(set(numbers.values()), reverse=True)
    )
    caption = "A part imports from the layers below it, and never upwards."
    return f'<figure class="kp-layers">{rows}<figcaption>{caption}</figcaption></figure>'


def layer_numbers(source: str) -> dict[str, int]:
    """Return the layer of each part, as the dict LAYERS in a module has it.

    Raises:
        ValueError: the module has no such dict.
    """
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="LAYERS")], value=table):
                return dict(ast.literal_eval(table))
    raise ValueError(f"{LAYERS_SOURCE} has no dict LAYERS: docs/hooks/diagrams.py draws it")


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
