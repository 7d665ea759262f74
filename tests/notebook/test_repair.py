from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernelproto import InvalidNotebook
from kernelproto.notebook import read_notebook, write_notebook
from kernelproto.notebook.repair import repair

VALID: dict[str, Any] = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {
        "kernelspec": {"name": "python3", "display_name": "Python"},
        "language_info": {"name": "python"},
    },
    "cells": [
        {
            "cell_type": "code",
            "id": "one",
            "metadata": {},
            "source": "1",
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "old"}],
            "execution_count": None,
        },
        {"cell_type": "markdown", "id": "two", "metadata": {}, "source": "x"},
    ],
}

Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]

# Each fault, and the repair; the arguments are the notebook and its two cells.
REPAIRED: dict[str, tuple[Change, str]] = {
    "ids in 4.4": (
        lambda nb, code, text: nb.update(nbformat_minor=4),
        "cell 1: removed the id; cell 2: removed the id",
    ),
    "no minor version": (lambda nb, code, text: nb.pop("nbformat_minor"), "added nbformat_minor"),
    "no metadata": (lambda nb, code, text: nb.pop("metadata"), "added 'metadata'"),
    "extra key": (lambda nb, code, text: nb.update(extra=1), "removed 'extra'"),
    "no display name": (
        lambda nb, code, text: nb["metadata"]["kernelspec"].pop("display_name"),
        "added 'display_name'",
    ),
    "no kernel": (
        lambda nb, code, text: nb["metadata"].update(kernelspec=None),
        "removed 'metadata.kernelspec'",
    ),
    "no language": (
        lambda nb, code, text: nb["metadata"]["language_info"].pop("name"),
        "removed 'metadata.language_info'",
    ),
    "authors": (
        lambda nb, code, text: nb["metadata"].update(authors="ada"),
        "removed 'metadata.authors'",
    ),
    "title": (
        lambda nb, code, text: nb["metadata"].update(title=3),
        "removed 'metadata.title'",
    ),
    "no outputs": (lambda nb, code, text: code.pop("outputs"), "cell 1: added 'outputs'"),
    "null outputs": (
        lambda nb, code, text: code.update(outputs=None),
        "cell 1: removed 'outputs'; cell 1: added 'outputs'",
    ),
    "no count": (
        lambda nb, code, text: code.pop("execution_count"),
        "cell 1: added 'execution_count'",
    ),
    "running": (
        lambda nb, code, text: code.update(execution_count="*"),
        "cell 1: removed 'execution_count'; cell 1: added 'execution_count'",
    ),
    "no cell metadata": (lambda nb, code, text: code.pop("metadata"), "cell 1: added 'metadata'"),
    "extra key of a cell": (lambda nb, code, text: code.update(extra=1), "cell 1: removed 'extra'"),
    "output without metadata": (
        lambda nb, code, text: code["outputs"].append({"output_type": "display_data", "data": {}}),
        "cell 1: dropped 1 invalid outputs",
    ),
    "unknown output": (
        lambda nb, code, text: code["outputs"].append({"output_type": "unheard_of"}),
        "cell 1: dropped 1 invalid outputs",
    ),
    "no output": (
        lambda nb, code, text: code["outputs"].append(None),
        "cell 1: dropped 1 invalid outputs",
    ),
    "stream without a name": (
        lambda nb, code, text: code["outputs"].append({"output_type": "stream", "text": ""}),
        "cell 1: dropped 1 invalid outputs",
    ),
    "tags": (
        lambda nb, code, text: code["metadata"].update(tags="parameters"),
        "cell 1: made a list of 'tags'",
    ),
    "collapsed": (
        lambda nb, code, text: code["metadata"].update(collapsed=None),
        "cell 1: removed 'metadata.collapsed'",
    ),
    "scrolled": (
        lambda nb, code, text: code["metadata"].update(scrolled="yes"),
        "cell 1: removed 'metadata.scrolled'",
    ),
    "jupyter": (
        lambda nb, code, text: code["metadata"].update(jupyter=None),
        "cell 1: removed 'metadata.jupyter'",
    ),
    "name": (
        lambda nb, code, text: code["metadata"].update(name=""),
        "cell 1: removed 'metadata.name'",
    ),
    "long id": (lambda nb, code, text: code.update(id="x" * 65), "cell 1: replaced the id"),
    "odd id": (lambda nb, code, text: code.update(id="a b"), "cell 1: replaced the id"),
    "two ids": (lambda nb, code, text: text.update(id="one"), "cell 2: replaced the id"),
    "no id": (lambda nb, code, text: code.pop("id"), "cell 1: added an id"),
    "text with outputs": (
        lambda nb, code, text: text.update(outputs=[], execution_count=None),
        "cell 2: removed 'execution_count', 'outputs'",
    ),
    "attachments": (
        lambda nb, code, text: text.update(attachments=None),
        "cell 2: removed 'attachments'",
    ),
}
REFUSED: dict[str, Change] = {
    "no cells": lambda nb, code, text: nb.pop("cells"),
    "no source": lambda nb, code, text: code.pop("source"),
    "source of numbers": lambda nb, code, text: code.update(source=[1]),
    "no type": lambda nb, code, text: code.pop("cell_type"),
    "unknown type": lambda nb, code, text: code.update(cell_type="heading"),
    "a cell that is a number": lambda nb, code, text: nb["cells"].append(1),
}


def changed(change: Change) -> dict[str, Any]:
    nb = copy.deepcopy(VALID)
    change(nb, *nb["cells"])
    return nb


@pytest.mark.parametrize("fault", REPAIRED)
def test_repaired_notebook_is_valid(fault: str, tmp_path: Path, caplog) -> None:
    change, repairs = REPAIRED[fault]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(changed(change)))

    nb = read_notebook(path)

    assert [cell["source"] for cell in nb["cells"]] == ["1", "x"]
    write_notebook(nb, path)
    assert caplog.record_tuples == [
        ("kernelproto.notebook.files", logging.WARNING, f"{path} was repaired: {repairs}")
    ]


@pytest.mark.parametrize("fault", REFUSED)
def test_fault_of_the_code_is_refused(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(changed(REFUSED[fault])))

    with pytest.raises(InvalidNotebook, match=r"a\.ipynb is not a valid notebook: \S"):
        read_notebook(path)


def test_valid_outputs_are_kept() -> None:
    change, _ = REPAIRED["unknown output"]
    nb = changed(change)
    repair(nb)
    assert nb == VALID


def test_valid_notebook_needs_no_repair() -> None:
    nb = copy.deepcopy(VALID)
    assert repair(nb) == []
    assert nb == VALID


def test_warning_names_the_first_repairs_only(tmp_path: Path, caplog) -> None:
    nb = copy.deepcopy(VALID)
    nb["cells"] = [{**VALID["cells"][1], "id": f"c{n}", "extra": 1} for n in range(1000)]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(nb))

    read_notebook(path)

    (text,) = caplog.messages
    assert text.endswith("cell 10: removed 'extra'; and 990 more repairs")
