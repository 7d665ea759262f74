from __future__ import annotations

from typing import Any

import pytest

from kernelproto import InvalidNotebook, InvalidParameter, LocalProtocolError
from kernelproto.client import ExecutionResult
from kernelproto.notebook.rules import (
    check_first_cell,
    check_time_limits,
    ends_notebook,
    executable,
    time_limit,
)
from kernelproto.wire.content import ErrorOutput


def limits(nb: Any, default: float | None = 5.0) -> list[float | None]:
    check_time_limits(nb)
    return [time_limit(nb, cell, default) for cell in nb["cells"]]


def test_most_specific_time_limit_applies(notebook) -> None:
    nb = notebook("a", "b", "c", "d")
    nb["cells"][1]["metadata"]["timeout"] = 1
    nb["cells"][2]["metadata"]["timeout"] = -1
    assert limits(nb) == [5.0, 1.0, None, 5.0]

    nb["metadata"]["execution"] = {"timeout": 2.5}
    nb["cells"][3]["metadata"]["timeout"] = None
    assert limits(nb) == [2.5, 1.0, None, None]

    nb["metadata"]["execution"] = "something of another program"
    assert limits(nb, None) == [None, 1.0, None, None]


@pytest.mark.parametrize("value", ["30s", 0, -2, True, float("nan"), float("inf"), [1]])
def test_time_limit_that_is_no_number_of_seconds(value, notebook) -> None:
    nb = notebook("", "a", "b")
    nb["cells"][2]["metadata"]["timeout"] = value
    with pytest.raises(InvalidNotebook, match=r"cell 2 of 2 has timeout .*: use a number of sec"):
        check_time_limits(nb)

    nb = notebook("a")
    nb["metadata"]["execution"] = {"timeout": value}
    with pytest.raises(InvalidNotebook, match=r"execution\.timeout .*: use a number of seconds"):
        check_time_limits(nb)


def result(*error: str, **about: Any) -> ExecutionResult:
    about |= {"status": "error", "error": ErrorOutput(*error, traceback=[])} if error else {}
    return ExecutionResult(**({"status": "ok", "execution_count": 1, "outputs": ()} | about))


@pytest.mark.parametrize(
    ("about", "ends"),
    [
        (result("SystemExit", ""), True),
        (result("SystemExit", "0"), True),
        (result("SystemExit", "None"), True),
        (result("SystemExit", "3"), False),
        (result("SystemExit", "no more data"), False),
        (result("KeyError", "0"), False),
        (result(payload=[{"source": "ask_exit", "keepkernel": False}]), True),
        (result(payload=[{"source": "page"}]), False),
        (result(), False),
    ],
)
def test_successful_exits(about, ends, notebook) -> None:
    (cell,) = notebook("exit")["cells"]
    assert ends_notebook(cell, about) is ends


def test_cell_that_may_raise_system_exit_ends_nothing(notebook) -> None:
    (cell,) = notebook(("exit", "raises-exception"))["cells"]
    assert not ends_notebook(cell, result("SystemExit", "0"))


def test_first_cell(notebook) -> None:
    nb = notebook(("x = 1", "injected-parameters"), "", "a", "b")
    positions = executable(nb["cells"])
    assert positions == [0, 2, 3]

    check_first_cell(nb["cells"], positions, 3, injected=False)
    check_first_cell(nb["cells"], positions, 1, injected=True)
    check_first_cell([], [], 1, injected=False)
    with pytest.raises(LocalProtocolError, match="cannot begin with cell 4: the notebook has 3"):
        check_first_cell(nb["cells"], positions, 4, injected=False)
    with pytest.raises(InvalidParameter, match="their cell comes before cell 2"):
        check_first_cell(nb["cells"], positions, 2, injected=True)
