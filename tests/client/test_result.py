from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.client.page import Displays, LastingOutput, OutputPage
from kernelproto.client.result import ExecutionResult
from kernelproto.exceptions import ExecutionError
from kernelproto.wire.content import (
    ClearOutput,
    DisplayData,
    ErrorOutput,
    ExecuteReply,
    ExecuteResult,
    Output,
    Stream,
    UpdateDisplayData,
)

CLEAR = ClearOutput()
CLEAR_LATER = ClearOutput(wait=True)
A, B = Stream("stdout", "a"), Stream("stdout", "b")
ERROR = ErrorOutput("ValueError", "bad", ["line 1", "line 2"])


def bundle(text: str, display_id: str | None = None) -> tuple[dict, dict, dict]:
    return (
        {"text/plain": text},
        {"about": text},
        {} if display_id is None else {"display_id": display_id},
    )


def shown(text: str, display_id: str | None = None) -> DisplayData:
    return DisplayData(*bundle(text, display_id))


def value(text: str, display_id: str | None = None) -> ExecuteResult:
    return ExecuteResult(*bundle(text, display_id), execution_count=3)


def fold_outputs(outputs: Iterable[Output]) -> list[LastingOutput]:
    page = OutputPage(Displays(0))
    for output in outputs:
        page.take(output, 0)
    return page.outputs()


def update(text: str, display_id: str | None = None) -> UpdateDisplayData:
    return UpdateDisplayData(*bundle(text, display_id))


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([A, shown("x"), B, ERROR], [A, shown("x"), B, ERROR], id="in order"),
        pytest.param([A, A], [A, A], id="text is not joined"),
        pytest.param([A, CLEAR], [], id="clear"),
        pytest.param([A, CLEAR, B], [B], id="clear between"),
        pytest.param([CLEAR, A], [A], id="clear nothing"),
        pytest.param([A, CLEAR_LATER], [A], id="clear later, and nothing follows"),
        pytest.param([A, CLEAR_LATER, B], [B], id="clear later"),
        pytest.param([A, CLEAR_LATER, CLEAR_LATER, B, A], [B, A], id="clear later clears once"),
        pytest.param([A, CLEAR_LATER, CLEAR, B, A], [B, A], id="clear later, then at once"),
        pytest.param(
            [shown("x", "i"), CLEAR_LATER, update("y", "i")],
            [shown("y", "i")],
            id="an update is no next output",
        ),
        pytest.param(
            [shown("x", "i"), CLEAR_LATER, update("y", "i"), A],
            [A],
            id="clear removes an updated output",
        ),
        pytest.param([shown("x", "i"), update("y", "i")], [shown("y", "i")], id="update"),
        pytest.param([value("x", "i"), update("y", "i")], [value("y", "i")], id="update a result"),
        pytest.param(
            [shown("x", "i"), A, shown("y", "i"), update("z", "i")],
            [shown("z", "i"), A, shown("z", "i")],
            id="update every display of that id",
        ),
        pytest.param(
            [shown("x", "i"), update("y", "j")], [shown("x", "i")], id="update of another display"
        ),
        pytest.param([shown("x"), update("y")], [shown("x")], id="update without an id"),
        pytest.param([update("y", "i"), shown("x", "i")], [shown("x", "i")], id="update too early"),
        pytest.param(
            [A, ERROR, update("y", "i")], [A, ERROR], id="update of an output without an id"
        ),
        pytest.param(
            [shown("x", "i"), CLEAR, update("y", "i")], [], id="update of a cleared output"
        ),
    ],
)
def test_folding(outputs, expected) -> None:
    assert fold_outputs(outputs) == expected


ids = st.sampled_from([None, "i", "j"])
texts = st.sampled_from("xyz")
lasting = st.one_of(
    st.builds(Stream, st.just("stdout"), texts),
    st.builds(shown, texts, ids),
    st.builds(value, texts, ids),
    st.just(ERROR),
)
any_output = st.one_of(
    lasting, st.builds(update, texts, ids), st.sampled_from([CLEAR, CLEAR_LATER])
)


@given(st.lists(any_output, max_size=30))
def test_folding_follows_the_specification(outputs: list[Output]) -> None:
    """For each output: does it survive the later ones, and in which form?"""

    def is_lasting(output: Output) -> bool:
        return not isinstance(output, ClearOutput | UpdateDisplayData)

    def survives(position: int) -> bool:
        return not any(
            isinstance(output, ClearOutput)
            and (not output.wait or any(map(is_lasting, outputs[later + 1 :])))
            for later, output in enumerate(outputs)
            if later > position
        )

    def final_data(position: int) -> object:
        output = outputs[position]
        if not isinstance(output, DisplayData | ExecuteResult):
            return output
        data = [output.data] + [
            later.data
            for later in outputs[position + 1 :]
            if isinstance(later, UpdateDisplayData) and later.display_id == output.display_id
        ]
        return data[0] if output.display_id is None else data[-1]

    expected = [
        (type(output), final_data(position))
        for position, output in enumerate(outputs)
        if is_lasting(output) and survives(position)
    ]
    assert [
        (type(output), output.data if isinstance(output, DisplayData | ExecuteResult) else output)
        for output in fold_outputs(outputs)
    ] == expected


def test_folding_changes_no_output() -> None:
    before = shown("x", "i")
    fold_outputs([before, update("y", "i")])
    assert before == shown("x", "i")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param(
            Stream("stderr", "oh\n"),
            {"output_type": "stream", "name": "stderr", "text": "oh\n"},
            id="stream",
        ),
        pytest.param(
            DisplayData(
                {"text/plain": "<fig>", "image/png": "aGk="},
                {"image/png": {"width": 1}},
                {"display_id": "i"},
            ),
            {
                "output_type": "display_data",
                "data": {"text/plain": "<fig>", "image/png": "aGk="},
                "metadata": {"image/png": {"width": 1}},
            },
            id="display_data",
        ),
        pytest.param(
            ExecuteResult({"text/plain": "42"}, {}, {}, 7),
            {
                "output_type": "execute_result",
                "data": {"text/plain": "42"},
                "metadata": {},
                "execution_count": 7,
            },
            id="execute_result",
        ),
        pytest.param(
            ERROR,
            {
                "output_type": "error",
                "ename": "ValueError",
                "evalue": "bad",
                "traceback": ["line 1", "line 2"],
            },
            id="error",
        ),
    ],
)
def test_notebook_outputs_are_those_of_nbformat(output, expected) -> None:
    result = ExecutionResult(status="ok", outputs=[output])
    assert result.to_notebook_outputs() == [expected]


def test_notebook_outputs_join_adjacent_text_of_one_stream() -> None:
    outputs = [A, B, Stream("stderr", "c"), Stream("stderr", "d"), A, shown("x"), A, ERROR, A]
    cells = ExecutionResult(status="ok", outputs=outputs).to_notebook_outputs()
    assert [cell.get("text", cell["output_type"]) for cell in cells] == [
        "ab",
        "cd",
        "a",
        "display_data",
        "a",
        "error",
        "a",
    ]


def test_notebook_outputs_are_the_callers_own() -> None:
    result = ExecutionResult(status="ok", outputs=[shown("x"), ERROR])
    display, error = result.to_notebook_outputs()
    display["data"].clear()
    display["metadata"].clear()
    error["traceback"].clear()
    assert result.outputs == [shown("x"), ERROR]
    assert result.to_notebook_outputs()[0]["data"] == {"text/plain": "x"}


def of(outputs: list[Output] | tuple[Output, ...] = (), **reply: object) -> ExecutionResult:
    return ExecutionResult.of(ExecuteReply(**reply), fold_outputs(outputs))


def test_a_result_has_the_fields_of_the_reply() -> None:
    result = of(
        execution_count=5,
        user_expressions={"x": {"status": "ok", "data": {"text/plain": "1"}}},
        payload=[{"source": "page"}],
    )
    assert result.status == "ok"
    assert result.execution_count == 5
    assert result.user_expressions == {"x": {"status": "ok", "data": {"text/plain": "1"}}}
    assert result.payload == [{"source": "page"}]
    assert result.error is None
    assert result.outputs_complete


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("ok", "ok"),
        ("error", "error"),
        ("aborted", "aborted"),
        ("abort", "aborted"),
        ("never heard of", "ok"),
    ],
)
def test_the_status_is_one_of_three(status, expected) -> None:
    assert of(status=status).status == expected


def test_a_result_has_the_folded_outputs() -> None:
    assert of([A, CLEAR, shown("x", "i"), update("y", "i")]).outputs == [shown("y", "i")]


def test_text_and_data_are_those_of_the_last_value() -> None:
    result = of([value("1"), shown("x"), value("2"), A])
    assert result.text == "2"
    assert result.data == {"text/plain": "2"}


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [A, shown("x")],
        [ExecuteResult({"image/png": "aGk="})],
        [ExecuteResult({"text/plain": 1})],
    ],
    ids=["nothing", "no value", "no text", "a number"],
)
def test_without_a_text_there_is_none(outputs) -> None:
    assert of(outputs).text is None


def test_stdout_and_stderr_are_joined() -> None:
    result = of([A, Stream("stderr", "x"), B, shown("no text"), Stream("stderr", "y")])
    assert result.stdout == "ab"
    assert result.stderr == "xy"


def test_raising_for_no_error_returns_the_result() -> None:
    result = of([value("1")])
    assert result.raise_for_error() is result


def test_raising_for_an_error() -> None:
    result = of(status="error", ename="ValueError", evalue="bad", traceback=["line 1", "line 2"])
    assert result.error == ERROR
    with pytest.raises(ExecutionError, match=r"^ValueError: bad$") as raised:
        result.raise_for_error()
    assert raised.value.ename == "ValueError"
    assert raised.value.evalue == "bad"
    assert raised.value.traceback == ("line 1", "line 2")


def test_the_error_may_be_only_in_the_outputs() -> None:
    result = of([Stream("stderr", "bad")], status="error")
    assert result.error == ErrorOutput()
    with pytest.raises(ExecutionError, match=r"^the code failed: see its outputs$"):
        result.raise_for_error()


@pytest.mark.parametrize("status", ["aborted", "abort"])
def test_aborted_reply_with_a_count_was_interrupted(status) -> None:
    result = of(status=status, execution_count=3)
    assert (result.status, result.execution_count) == ("error", 3)
    with pytest.raises(ExecutionError, match=r"^Interrupted: the code was interrupted$") as raised:
        result.raise_for_error()
    assert raised.value.ename == "Interrupted"


def test_raising_for_an_aborted_execution() -> None:
    result = of(status="aborted")
    assert result.error is None
    with pytest.raises(ExecutionError, match=r"^not executed: an earlier execution failed$"):
        result.raise_for_error()
