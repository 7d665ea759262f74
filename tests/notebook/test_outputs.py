"""Pages keep the visible outputs, up to their limit."""

from __future__ import annotations

import pytest

from kernelproto.notebook.outputs import Displays, NotebookPage
from kernelproto.wire.content import (
    ClearOutput,
    DisplayData,
    ErrorOutput,
    ExecuteResult,
    Output,
    Stream,
    UpdateDisplayData,
)


def shown(page: NotebookPage) -> list[str]:
    page.settle()
    return [
        output.get("text") or output.get("ename") or output["data"]["text/plain"]
        for output in page.outputs
    ]


def display(text: str, name: str | None = None) -> DisplayData:
    return DisplayData({"text/plain": text}, {}, {} if name is None else {"display_id": name})


def update(text: str, name: str) -> UpdateDisplayData:
    return UpdateDisplayData({"text/plain": text}, {"new": True}, {"display_id": name})


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([Stream("stdout", "a"), Stream("stdout", "b")], ["ab"]),
        ([Stream("stdout", "a"), Stream("stderr", "b"), Stream("stdout", "c")], ["a", "b", "c"]),
        ([Stream("stdout", "a"), display("b"), Stream("stdout", "c")], ["a", "b", "c"]),
        ([ExecuteResult({"text/plain": "1"}), ErrorOutput("Oops")], ["1", "Oops"]),
        ([Stream("stdout", "a"), ClearOutput()], []),
        ([Stream("stdout", "a"), ClearOutput(), Stream("stdout", "b")], ["b"]),
        ([Stream("stdout", "a"), ClearOutput(wait=True)], ["a"]),
        ([Stream("stdout", "a"), ClearOutput(wait=True), Stream("stdout", "b")], ["b"]),
        ([display("a", "x"), ClearOutput(wait=True), update("b", "x")], ["b"]),
        ([display("a", "x"), update("b", "x")], ["b"]),
        ([display("a", "x"), display("b"), update("c", "y")], ["a", "b"]),
        ([display("a", "x"), display("b", "x")], ["b", "b"]),
        ([display("a", "x"), ClearOutput(), update("b", "x"), display("c")], ["c"]),
        ([update("a", "x"), display("b", "x")], ["b"]),
    ],
)
def test_visible_outputs(outputs: list[Output], expected: list[str]) -> None:
    page = NotebookPage([], Displays(1000), limit=1000)
    for output in outputs:
        page.take(output, 10)

    assert shown(page) == expected


def test_a_display_is_updated_on_every_page() -> None:
    displays = Displays(1000)
    first, second = NotebookPage([], displays, limit=1000), NotebookPage([], displays, limit=1000)
    first.take(display("a", "x"), 10)
    second.take(ClearOutput(), 10)
    second.take(update("b", "x"), 10)
    second.take(display("c", "y"), 10)
    second.clear()
    first.take(update("d", "y"), 10)

    assert (shown(first), shown(second)) == (["b"], [])
    assert first.outputs[0].metadata == {"new": True}


def test_text_in_many_pieces_is_joined_once_and_goes_on() -> None:
    page = NotebookPage([], Displays(1000), limit=1000)
    for text in "abc":
        page.take(Stream("stdout", text), 10)
    assert shown(page) == ["abc"]

    page.take(Stream("stdout", "d"), 10)
    assert shown(page) == ["abcd"]


def test_outputs_beyond_the_limit_are_counted() -> None:
    page = NotebookPage([], Displays(1000), limit=25)
    for text in "abc":
        page.take(display(text), 10)

    assert shown(page) == ["a", "b"]
    assert (page.discarded_messages, page.discarded_bytes) == (1, 10)


def test_cleared_and_updated_outputs_do_not_count() -> None:
    page = NotebookPage([], Displays(1000), limit=25)
    for _ in range(10):
        page.take(display("a", "x"), 20)
        page.take(update("b", "x"), 5)
        page.take(display("c"), 20)
        page.take(ClearOutput(wait=True), 10)

    assert shown(page) == ["b", "c"]
    assert not page.discarded_messages
