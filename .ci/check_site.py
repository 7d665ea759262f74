"""Check the documentation that ``make docs`` has built.

Nothing in it comes from other hosts. The search works in pages that are opened as files. llms.txt
links the text of every page.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

SITE = Path(sys.argv[1])
ELSEWHERE = re.compile(r"(https?:)?//")
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")

# What a browser fetches by itself; what a reader has to click is none of it.
FETCHED = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "input": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}


class Fetched(HTMLParser):
    """Collects what a page has from other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at a tag."""
        said = dict(attrs)
        address = said.get(FETCHED.get(tag, "")) or ""
        if ELSEWHERE.match(address):
            self.found.append(f"<{tag}> {address}")
        self.found += IN_STYLES.findall(said.get("style") or "")


pages = sorted(SITE.rglob("*.html"))
assert pages, f"nothing was built in {SITE}"
from_elsewhere: list[str] = []
for page in pages:
    parser = Fetched()
    parser.feed(page.read_text("utf-8"))
    from_elsewhere += [f"{page}: {what}" for what in parser.found]
for style in sorted(SITE.rglob("*.css")):
    from_elsewhere += [f"{style}: {what}" for what in IN_STYLES.findall(style.read_text("utf-8"))]

index = SITE / "search" / "search_index.js"
assert index.read_text("utf-8").startswith("var __index = {"), f"{index} is no script"
for page in pages:
    text = page.read_text("utf-8")
    assert "assets/iframe-worker.js" in text, f"{page}: no search in a page opened as a file"
    assert not re.search(r"<!-- (chart|diagram|settings)\b", text), f"{page} has an empty place"

linked = re.findall(r"\]\(([^)]+\.md)\)", (SITE / "llms.txt").read_text("utf-8"))
texts = sorted(f"{text.relative_to(SITE).as_posix()}" for text in SITE.rglob("*.md"))
assert sorted(linked) == texts, f"llms.txt differs from the pages: {set(linked) ^ set(texts)}"
for text in texts:
    assert "\n::: " not in (SITE / text).read_text("utf-8"), f"{text} lacks the docstrings"

assert not from_elsewhere, "\n".join(["the site fetches from elsewhere:", *from_elsewhere])
print(f"{len(pages)} pages, and nothing in them comes from elsewhere")
