from __future__ import annotations

import pytest

from kernelproto import CellTimeout, ExecutionError
from kernelproto.notebook import CellFinished, NotebookResult
from kernelproto.wire.content import ErrorOutput


def finished(number: int, status: str = "ok", **about: object) -> CellFinished:
    allowed = status == "ok"
    defaults: dict[str, object] = {"duration": 1.5, "allowed": allowed}
    return CellFinished(
        index=number + 4, number=number, total=3, status=status, **(defaults | about)
    )


def result_of(*cells: CellFinished) -> NotebookResult:
    return NotebookResult(notebook={}, cells=cells, total=3, duration=2.0)


def test_complete_execution_is_ok() -> None:
    result = result_of(finished(1), finished(2, "error", allowed=True))
    assert (result.status, result.failed) == ("ok", None)
    assert result.raise_for_error() is result


def test_exception_of_a_cell() -> None:
    error = ErrorOutput("ValueError", "no", ["Traceback", "ValueError: no"])
    result = result_of(finished(1), finished(2, "error", error=error))
    assert result.status == "error"
    with pytest.raises(ExecutionError, match=r"^cell 2 of 3: ValueError: no$") as caught:
        result.raise_for_error()
    assert (caught.value.ename, caught.value.evalue) == ("ValueError", "no")
    assert list(caught.value.traceback) == ["Traceback", "ValueError: no"]


def test_timeout_of_a_cell() -> None:
    result = result_of(finished(1, "timeout"))
    with pytest.raises(CellTimeout, match=r"^cell 1 of 3 was interrupted after 1\.5 s") as caught:
        result.raise_for_error()
    assert (caught.value.index, caught.value.seconds) == (5, 1.5)


def test_aborted_cell() -> None:
    with pytest.raises(ExecutionError, match=r"^cell 3 of 3 was not executed by the kernel$"):
        result_of(finished(3, "aborted")).raise_for_error()
