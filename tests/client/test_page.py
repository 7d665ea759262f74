"""Pages: displays are updated on every page, and ``size`` is the size of the shown outputs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.client.page import Displays, OutputPage
from kernelproto.exceptions import MalformedMessage
from kernelproto.wire.content import (
    ClearOutput,
    DisplayData,
    ErrorOutput,
    Output,
    Stream,
    UpdateDisplayData,
)
from kernelproto.wire.refusals import RefusedOutput


def display(data: str, display_id: str = "id") -> DisplayData:
    return DisplayData({"text/plain": data}, {}, {"display_id": display_id})


def update(data: str, display_id: str = "id") -> UpdateDisplayData:
    return UpdateDisplayData({"text/plain": data}, {}, {"display_id": display_id})


def shown(page: OutputPage) -> list[str]:
    return [getattr(output, "text", "") or output.data["text/plain"] for output in page.outputs()]


def test_an_update_reaches_every_page_of_the_kernel() -> None:
    displays = Displays(1000)
    first, second = OutputPage(displays), OutputPage(displays)
    first.take(display("a"), 10)
    second.take(update("b"), 10)
    second.take(display("c"), 10)

    assert (shown(first), shown(second)) == (["b"], ["c"])
    second.take(update("d"), 10)
    assert (shown(first), shown(second)) == (["d"], ["d"])


def test_an_update_between_two_readings_changes_read_outputs() -> None:
    page = OutputPage(Displays(1000))
    for text in "abc":
        page.take(display(text), 10)
        page.take(update(text * 2), 10)
        assert shown(page)[-1] == text * 2
    assert shown(page) == ["cc"] * 3


def test_size_is_the_size_of_shown_outputs() -> None:
    page = OutputPage(Displays(1000))
    page.take(Stream("stdout", "text"), 10)
    page.take(display("a"), 10)
    page.take(display("b"), 20)
    assert page.size == 40
    page.take(update("c"), 5)
    assert page.size == 20
    page.take(display("d"), 30)
    page.take(update("of another display", "other"), 500)
    assert page.size == 50
    page.take(ClearOutput(), 10)
    assert page.size == 0


outputs = st.one_of(
    st.builds(Stream, st.just("stdout"), st.text(max_size=1)),
    st.just(ErrorOutput("E")),
    st.builds(display, st.text(max_size=1), st.sampled_from("ab")),
    st.builds(update, st.text(max_size=1), st.sampled_from("ab")),
    st.builds(ClearOutput, st.booleans()),
)


@given(st.lists(st.tuples(outputs, st.integers(0, 100)), max_size=30), st.integers(0, 500))
def test_shrinking_drops_the_oldest_and_never_counts_wrong(
    taken: list[tuple[Output, int]], limit: int
) -> None:
    page, everything = OutputPage(Displays(10**6)), OutputPage(Displays(10**6))
    for output, size in taken:
        page.take(output, size)
        everything.take(output, size)
    page.shrink(limit)

    left = page.outputs()
    assert left == everything.outputs()[len(everything.outputs()) - len(left) :]
    assert page.complete == (len(left) == len(everything.outputs()))
    assert 0 <= page.size <= max(limit, 0)
    page.shrink(-1)
    assert (page.outputs(), page.size) == ([], 0)


def test_updates_from_elsewhere_are_bounded_and_discarded_ones_counted() -> None:
    displays = Displays(100)
    page, other = OutputPage(displays), OutputPage(displays)
    for name in "abc":
        page.take(display("old", name), 10)
    for name in "abc":
        other.take(update("new", name), 50)
    assert shown(page) == ["new", "new", "old"]
    assert not page.complete
    assert (displays.discarded_messages, displays.discarded_bytes) == (1, 50)

    page.take(update("own", "c"), 1000)  # which the page counts
    assert shown(page) == ["new", "new", "own"]
    assert page.complete
    page.take(ClearOutput(), 10)
    page.take(display("old", "d"), 10)
    other.take(update("new", "d"), 100)  # the room that the others had is free again
    assert shown(page) == ["new"]


def test_the_same_update_counts_once() -> None:
    displays = Displays(100)
    page = OutputPage(displays)
    page.take(display("old"), 10)
    again = update("new")
    page.take(again, 80)
    displays.update(again, 80)
    assert (displays.updates, page.complete) == (1, True)


@pytest.mark.parametrize("count", [1, 10, 11, 1000])
def test_refused_outputs_are_shown_up_to_a_limit(count: int) -> None:
    page = OutputPage(Displays(1000))
    page.take(Stream("stdout", "text"), 10)
    assert page.complete
    for _ in range(count):
        page.take(RefusedOutput.of("stream", MalformedMessage("cannot be read")), 10)

    assert len(page.outputs()) == 1 + min(count, 10)
    assert not page.complete


def test_displays_end_with_their_pages() -> None:
    displays = Displays(1000)
    page = OutputPage(displays)
    page.take(display("a"), 10)
    assert displays
    page.clear()
    assert not displays
    displays.update(update("b"), 10)
    assert not displays
