from __future__ import annotations

import pytest
from nbformat import validate

from kernelproto import KernelDied
from kernelproto.notebook import CellFinished, CellStarted
from kernelproto.notebook.banner import remove_banners, with_banners
from kernelproto.wire.content import ErrorOutput

STARTED = CellStarted(index=1, number=2, total=3)


def finished(status: str, error: ErrorOutput | None = None) -> CellFinished:
    return CellFinished(
        index=1, number=2, total=3, status=status, duration=1.0, error=error, allowed=False
    )


@pytest.mark.parametrize(
    ("cell", "error", "reason"),
    [
        (finished("error", ErrorOutput("Oops<b>", "", [])), None, "Oops&lt;b&gt;"),
        (finished("timeout", ErrorOutput("X", "", [])), None, "the cell took longer than allowed"),
        (finished("aborted"), None, "the kernel did not run it"),
        (STARTED, KernelDied("gone"), "KernelDied"),
    ],
)
def test_banners_link_to_the_failed_cell(cell, error, reason, notebook) -> None:
    nb = notebook("a", "b", "c")

    marked = with_banners(nb, cell, error)

    validate(marked)
    top, _, anchor, failed, _ = [cell["source"] for cell in marked["cells"]]
    assert "cell 2 of 3</a>" in top
    assert top.partition('href="#')[2].partition('"')[0] in anchor
    assert failed == "b"
    assert f": {reason}<" in top
    assert f": {reason}<" in anchor
    assert len(nb["cells"]) == 3

    remove_banners(marked)
    assert marked == nb


def test_banners_have_no_ids_before_nbformat_4_5(notebook) -> None:
    nb = notebook("a", "b")
    nb["nbformat_minor"] = 4
    for cell in nb["cells"]:
        del cell["id"]

    validate(with_banners(nb, STARTED))
