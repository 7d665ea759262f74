"""The dashboard as HTML."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from kernelproto.interfaces import User
from kernelproto.pool import KernelEnd, LostKernel, PooledKernel
from kernelproto.server.dashboard.page import Html, HtmlTemplate, View, ago, amount, render
from kernelproto.server.telemetry.usage import Usage
from tests.server.dashboard.conftest import ParsedPage

EVIL = "<script>alert(1)</script>\"'&"

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def kernel_of(user: str, **facts: object) -> PooledKernel:
    known = {
        "kernel_id": "0" * 36,
        "user": user,
        "name": "x",
        "kernel_type": f"spec/{EVIL}",
        "state": "busy",
        "connections": 3,
        "started_at": NOW,
        "last_activity": NOW,
        "pid": 17,
    }
    return msgspec.convert({**known, **facts}, PooledKernel)


def view_of(*kernels: PooledKernel, **facts: Any) -> View:
    view = View(
        user=User("ada"),
        kernels=kernels,
        limit=50,
        lost=[],
        documents={},
        usage={17: Usage(2_500_000_000, 1.25)},
        now=NOW,
        here="http://x/",
        version="1.0",
    )
    return view._replace(**facts)


def test_page_shows_the_facts_of_a_kernel() -> None:
    view = view_of(kernel_of("ada", last_death=f"signal 9 {EVIL}"))
    page = ParsedPage(render(view))
    assert {EVIL, "busy", "3", "just now", "2.5 GB", "125%"} <= set(page.words)
    assert f"died: signal 9 {EVIL}" in page.words
    assert "1 of 50 kernels \N{MIDDLE DOT} 1 busy \N{MIDDLE DOT} 2.5 GB" in page.words
    (time,) = page.all("time")
    assert time == {"datetime": "2026-01-01T00:00:00Z", "title": "2026-01-01 00:00:00 UTC"}
    unknown = ParsedPage(render(view._replace(usage={})))
    assert unknown.words.count("\N{EN DASH}") == 2


def test_page_says_why_a_kernel_cannot_be_reached() -> None:
    lost = kernel_of("ada", state="unreachable", unreachable=f"no route to {EVIL}")
    page = ParsedPage(render(view_of(lost)))
    assert {"unreachable", f"no route to {EVIL}; it may still run"} <= set(page.words)


def test_template_escapes_all_values_but_html() -> None:
    template = HtmlTemplate('<p title="$text">$text $html $number</p>')
    filled = template.fill(text="<'\"&>", html=Html("<b>&amp;</b>"), number=1)
    escaped = "&lt;&#x27;&quot;&amp;&gt;"
    assert filled == f'<p title="{escaped}">{escaped} <b>&amp;</b> 1</p>'
    assert HtmlTemplate("$inner").fill(inner=filled) == filled
    assert HtmlTemplate("$inner").fill(inner=filled[:3]) == "&lt;p "  # a part of it is plain text


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        ([f"a/{EVIL}.ipynb"], f"a/{EVIL}.ipynb"),
        (["a.ipynb", "b.ipynb", "c.ipynb"], "a.ipynb and 2 more"),
        (["x" * 4000 + "/a.ipynb"], "\N{HORIZONTAL ELLIPSIS}" + "x" * 112 + "/a.ipynb"),
    ],
)
def test_page_names_the_document_of_a_kernel(paths: list[str], shown: str) -> None:
    documents = {("ada", "0" * 36): paths, ("bob", "0" * 36): ["other"]}
    page = ParsedPage(render(view_of(kernel_of("ada"), documents=documents)))
    assert shown in page.words
    assert "other" not in page.text


@pytest.mark.parametrize(
    ("left", "limit", "reason", "warning"),
    [
        (180.5, 1800, "culled", None),
        (180, 1800, "culled", "ends in 3 min unless used"),
        (59.9, 1800, "culled", "ends in 59 s unless used"),
        (0.9, 1800, "culled", "ends now unless used"),
        (-5, 1800, "culled", "ends now unless used"),
        (301, 86_400, "expired", None),
        (299, 86_400, "expired", "ends in 4 min (maximum age)"),
        (6, 60, "culled", "ends in 6 s unless used"),
    ],
)
def test_page_warns_before_a_kernel_ends(
    left: float, limit: float, reason: str, warning: str | None
) -> None:
    end = {"at": NOW + timedelta(seconds=left), "reason": reason, "limit": limit}
    page = ParsedPage(render(view_of(kernel_of("ada", end=msgspec.convert(end, KernelEnd)))))
    warnings = [word for word in page.words if word.startswith("ends ")]
    assert warnings == ([] if warning is None else [warning])


def test_page_shows_lost_kernels_for_a_day() -> None:
    lost = [
        LostKernel(
            kernel_id=f"{number:036}",
            user=user,
            kernel_type=f"spec/{EVIL}",
            death=f"signal 9 {EVIL}",
            died_at=NOW - age,
        )
        for number, (user, age) in enumerate(
            [("ada", timedelta(minutes=3)), (EVIL, timedelta(hours=2)), ("ada", timedelta(days=1))]
        )
    ]
    page = ParsedPage(render(view_of(lost=lost)))
    text = " ".join(page.text.split())
    assert f"{EVIL} 00000000: signal 9 {EVIL}, 3 min ago" in text
    assert f"{EVIL} 00000000 of {EVIL}: signal 9 {EVIL}, 2 h ago" in text
    assert len(page.all("li")) == 2
    many = ParsedPage(render(view_of(lost=lost[:1] * 1000)))
    assert len(many.all("li")) == 20


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "just now"),  # the clock was set back
        (9.9, "just now"),
        (10, "10 s ago"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86_399, "23 h ago"),
        (86_400, "1 day ago"),
        (1e6, "11 days ago"),
    ],
)
def test_ago(seconds: float, words: str) -> None:
    assert ago(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 MB"), (85_400_000, "85 MB"), (999_400_000, "999 MB"), (999_600_000, "1.0 GB")],
)
def test_amount(size: int, words: str) -> None:
    assert amount(size) == words
