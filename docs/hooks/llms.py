"""Write the site for language models: llms.txt, llms-full.txt, and the Markdown of each page.

llms.txt lists all pages with a sentence about each, as https://llmstxt.org describes. Each page is
also there as Markdown, under the name of its source. llms-full.txt has all pages in the order of
the navigation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from markdownify import markdownify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

_texts: dict[str, str] = {}
_navigation: list[Navigation] = []


def on_nav(nav: Navigation, **_: Any) -> None:
    """Remember the navigation, and forget an earlier build."""
    _texts.clear()
    _navigation[:] = [nav]


def on_page_markdown(markdown: str, page: Page, **_: Any) -> None:
    """Remember the text of a page, without its comments."""
    _texts[page.file.src_uri] = re.sub(r"<!--.*?-->\n?", "", markdown, flags=re.DOTALL)


def on_page_content(html: str, page: Page, **_: Any) -> None:
    """Remember the text of a page of the reference, which is made from docstrings."""
    if "\n::: " in f"\n{_texts[page.file.src_uri]}":
        html = re.sub(r'<a [^>]*class="headerlink".*?</a>', "", html)
        _texts[page.file.src_uri] = markdownify(
            html,
            heading_style="ATX",
            code_language="python",
            escape_asterisks=False,
            escape_misc=False,
            escape_underscores=False,
        )


def on_post_build(config: MkDocsConfig) -> None:
    """Write the files."""
    (nav,) = _navigation
    site = Path(config.site_dir)
    for source, text in _texts.items():
        site.joinpath(source).write_text(text, "utf-8")
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    pages = [item for item in nav.items if isinstance(item, Page)]
    lines += _section("Start", pages)
    for item in nav.items:
        if isinstance(item, Section):
            lines += _section(
                item.title, [child for child in item.children if isinstance(child, Page)]
            )
    site.joinpath("llms.txt").write_text("\n".join(lines), "utf-8")
    everything = "\n\n".join(_texts[page.file.src_uri].strip() for page in nav.pages)
    site.joinpath("llms-full.txt").write_text(everything + "\n", "utf-8")


def _section(title: str, pages: list[Page]) -> list[str]:
    rows = [
        f"- [{page.title}]({page.file.src_uri}){about(_texts[page.file.src_uri])}" for page in pages
    ]
    return [f"## {title}", "", *rows, ""]


def about(text: str) -> str:
    """Return the first sentence of a page, after a colon; "" if the page begins without text."""
    for paragraph in text.split("\n\n"):
        if paragraph.strip() and not paragraph.lstrip().startswith("#"):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))
            sentence = re.match(r"[A-Za-z`].*?[.:](?= |$)", plain)
            return f": {sentence[0].rstrip('.:')}" if sentence else ""
    return ""
