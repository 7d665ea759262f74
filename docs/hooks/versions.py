"""Show the selector of versions if mike builds the site.

The site that ``make docs`` builds has one version, and no list of versions that a page can fetch.
"""

from __future__ import annotations

import os

from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> None:
    """Configure the selector in a build by mike, which sets the variable."""
    if os.environ.get("MIKE_DOCS_VERSION"):
        config.extra["version"] = {"provider": "mike", "default": "latest"}
