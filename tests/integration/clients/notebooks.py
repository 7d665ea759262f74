"""Notebook files that have not been executed, for JupyterLab."""

from __future__ import annotations

import json
from collections.abc import Iterable


def notebook(sources: Iterable[str], kernel_type: str, title: str = "Python") -> str:
    """Return the text of a notebook file with one code cell for each source."""
    cells = [
        {
            "cell_type": "code",
            "id": str(number),
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(sources)
    ]
    kernelspec = {"name": kernel_type, "display_name": title, "language": "python"}
    return json.dumps(
        {
            "cells": cells,
            "metadata": {"kernelspec": kernelspec},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )
