"""Draw the charts of the pages from the results of the benchmarks.

``<!-- chart: NAME -->`` on a page becomes a chart of ``docs/benchmarks/results.json``. A chart is
HTML and not an image, so it has the colours of the page and fits a phone.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results.json"

_PLACE = re.compile(r"^<!-- chart: (\w+) -->$", re.MULTILINE)


class Chart(NamedTuple):
    """One question of the benchmarks, for readers who do not know its contenders.

    Attributes:
        question: the name of the question in the results.
        title: shown above the chart.
        bars: the label of each bar by the name of its contender.
    """

    question: str
    title: str
    bars: Mapping[str, str]


CHARTS = {
    "start": Chart(
        "start",
        "From the request for a kernel to its first result",
        {
            "kernelproto warm asyncio": "kernelproto, launched in advance",
            "kernelproto fork asyncio": "kernelproto, fork/kernel",
            "kernelproto pyimport asyncio": "kernelproto, new interpreter",
            "fps-kernel-subprocess": "fps-kernel-subprocess",
            "jupyter_client async": "jupyter_client",
        },
    ),
    "flood": Chart(
        "flood.synthetic",
        "Outputs received per second from a synthetic kernel",
        {
            "pyzmq loop": "plain pyzmq, not verified",
            "kernelproto asyncio": "kernelproto",
            "zmq-anyio": "zmq-anyio",
            "fps-kernel-subprocess": "fps-kernel-subprocess",
            "jupyter_client async": "jupyter_client",
        },
    ),
    "lost": Chart(
        "blocked",
        "Outputs lost of 20,000 while the program blocks for 12 seconds",
        {
            "kernelproto asyncio": "kernelproto",
            "jupyter_client async": "jupyter_client",
        },
    ),
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the placeholders of a page with charts."""
    return fill(markdown, RESULTS)


def fill(markdown: str, results: Path) -> str:
    """Return a page with a chart in place of each placeholder.

    Raises:
        KeyError: there is no chart of this name, or the results lack its question.
    """
    if not _PLACE.search(markdown):
        return markdown
    questions = {
        question["name"]: question
        for question in json.loads(results.read_text("utf-8"))["questions"]
    }

    def draw(found: re.Match[str]) -> str:
        chart = CHARTS[found[1]]
        return _draw(chart, questions[chart.question])

    return _PLACE.sub(draw, markdown)


def _draw(chart: Chart, question: Mapping[str, Any]) -> str:
    """Return the HTML of a chart, on one line; contenders that were not measured have no bar."""
    medians = {
        contender: statistics.median(question["samples"][contender])
        for contender in chart.bars
        if question["samples"].get(contender) and None not in question["samples"][contender]
    }
    longest = max(medians.values()) or 1
    unit, better = question["unit"], question["better"]
    bars = "".join(
        f'<div class="kp-bar{_style(contender)}" role="listitem">'
        f"<span>{escape(chart.bars[contender])}</span>"
        f'<span class="kp-track"><span style="width:{100 * median / longest:.1f}%"></span>'
        f"<b>{_number(median)}{' ms' if unit == 'ms' else ''}</b></span></div>"
        for contender, median in medians.items()
    )
    return (
        f'<figure class="kp-chart"><figcaption>{escape(chart.title)}'
        f" <small>{escape(unit)}, {better} is better</small></figcaption>"
        f'<div role="list">{bars}</div></figure>'
    )


def _style(contender: str) -> str:
    return " kp-ours" if contender.startswith("kernelproto") else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"
