from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.client.output_buffer import _OBJECT_BYTES, OutputBuffer
from kernelproto.wire.content import DisplayData, ExecuteResult, Stream, UpdateDisplayData

ROOMY = 10**9


def text(number: int) -> Stream:
    return Stream("stdout", str(number))


def holds(count: int) -> int:
    """Return the limit that has room for so many outputs of 100 bytes."""
    return count * (100 + _OBJECT_BYTES)


def filled(limit: int, count: int) -> OutputBuffer:
    buffer = OutputBuffer(limit)
    for number in range(count):
        buffer.append(text(number), 100)
    return buffer


def test_a_new_buffer_is_empty_and_complete() -> None:
    buffer = OutputBuffer(ROOMY)
    assert buffer.read() is None
    assert buffer.page.outputs() == []
    assert buffer.overflow() is None
    assert buffer.complete


def test_outputs_are_read_once_and_in_order() -> None:
    buffer = filled(ROOMY, 3)
    assert [buffer.read() for _ in range(4)] == [text(0), text(1), text(2), None]
    buffer.append(text(3), 100)
    assert [buffer.read() for _ in range(2)] == [text(3), None]


def test_read_outputs_are_kept_as_well() -> None:
    buffer = filled(ROOMY, 3)
    buffer.read()
    assert buffer.page.outputs() == [text(0), text(1), text(2)]
    assert buffer.complete


def test_outputs_beyond_the_limit_are_discarded_and_counted() -> None:
    buffer = filled(holds(2), 5)
    assert buffer.page.outputs() == [text(0), text(1)]
    assert not buffer.complete
    overflow = buffer.overflow()
    assert overflow is not None
    assert overflow.discarded_messages == 3
    assert overflow.discarded_bytes == holds(3)
    assert str(overflow) == (
        f"3 outputs of {holds(3)} bytes were discarded, because more than {holds(2)} bytes were "
        "waiting to be read: iterate over the outputs as they come, or give the client a higher "
        "output_limit"
    )


def test_after_a_gap_nothing_is_kept_even_if_there_is_room_again() -> None:
    buffer = filled(holds(2), 3)
    assert [buffer.read() for _ in range(3)] == [text(0), text(1), None]
    buffer.append(text(3), 0)
    assert buffer.read() is None
    overflow = buffer.overflow()
    assert overflow is not None
    assert overflow.discarded_messages == 2


def test_reading_makes_room() -> None:
    buffer = filled(holds(2), 2)
    buffer.read()
    buffer.append(text(2), 100)
    assert buffer.overflow() is None
    assert [buffer.read() for _ in range(3)] == [text(1), text(2), None]


def test_an_output_over_the_limit_is_discarded_at_once() -> None:
    buffer = OutputBuffer(1000)
    buffer.append(text(0), 1001)
    assert buffer.read() is None
    assert buffer.overflow() is not None


def test_oldest_read_outputs_are_dropped_without_an_overflow() -> None:
    buffer = filled(holds(3), 3)
    for number in range(3, 8):
        assert buffer.read() == text(number - 3)
        buffer.append(text(number), 100)
    assert buffer.overflow() is None
    assert not buffer.complete
    assert text(0) not in buffer.page.outputs()
    assert buffer.page.outputs()[-3:] == [text(5), text(6), text(7)]


class Model:
    """The policy of the module's docstring, in lists that are never cut."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.accepted: list[tuple[Stream, int]] = []
        self.discarded: list[int] = []
        self.read = 0

    def bytes(self, outputs: list[tuple[Stream, int]]) -> int:
        return sum(size + _OBJECT_BYTES for _, size in outputs)

    def append(self, output: Stream, size: int) -> None:
        waiting = self.bytes([*self.accepted[self.read :], (output, size)])
        if self.discarded or waiting > self.limit:
            self.discarded.append(size + _OBJECT_BYTES)
        else:
            self.accepted.append((output, size))


@given(
    limit=st.integers(0, holds(10)),
    steps=st.lists(st.one_of(st.none(), st.integers(0, 1000)), max_size=100),
)
def test_the_policy_holds_for_any_sequence(limit: int, steps: list[int | None]) -> None:
    buffer, model = OutputBuffer(limit), Model(limit)
    for number, size in enumerate(steps):
        if size is not None:
            buffer.append(text(number), size)
            model.append(text(number), size)
        elif model.read < len(model.accepted):
            assert buffer.read() == model.accepted[model.read][0]
            model.read += 1
        else:
            assert buffer.read() is None

        # The kept outputs have no gap, all unread ones are kept, and both parts are bounded.
        kept = model.accepted[len(model.accepted) - len(buffer.page.outputs()) :]
        assert buffer.page.outputs() == [output for output, _ in kept]
        unread = model.accepted[model.read :]
        assert len(kept) >= len(unread)
        assert model.bytes(unread) <= limit
        assert model.bytes(kept) - model.bytes(unread) <= limit

        # Nothing goes without a trace.
        assert buffer.complete == (len(kept) == len(model.accepted) + len(model.discarded))
        overflow = buffer.overflow()
        if model.discarded:
            assert overflow is not None
            assert overflow.discarded_messages == len(model.discarded)
            assert overflow.discarded_bytes == sum(model.discarded)
        else:
            assert overflow is None


def display(data: str, display_id: str = "id") -> DisplayData:
    return DisplayData({"text/plain": data}, {}, {"display_id": display_id})


def update(data: str, display_id: str = "id") -> UpdateDisplayData:
    return UpdateDisplayData({"text/plain": data}, {}, {"display_id": display_id})


class TestUpdatesFromOtherExecutions:
    """Updates apply in the order in which the kernel sent them."""

    def shown(self, buffer: OutputBuffer) -> list[str]:
        return [output.data["text/plain"] for output in buffer.page.outputs()]

    def test_they_rewrite_a_display(self) -> None:
        buffer = OutputBuffer(ROOMY)
        buffer.append(display("old"), 0)
        buffer.append(ExecuteResult({"text/plain": "old"}, {}, {"display_id": "id"}), 0)
        buffer.append(display("other", "other"), 0)
        buffer.page.displays.update(update("new"), 0)
        assert self.shown(buffer) == ["new", "new", "other"]

    def test_they_are_not_read_by_iteration(self) -> None:
        buffer = OutputBuffer(ROOMY)
        buffer.append(display("old"), 0)
        buffer.page.displays.update(update("new"), 0)
        assert buffer.read() == display("old")
        assert buffer.read() is None

    def test_the_last_one_counts(self) -> None:
        buffer = OutputBuffer(ROOMY)
        buffer.append(display("old"), 0)
        buffer.page.displays.update(update("new"), 0)
        buffer.page.displays.update(update("newest"), 0)
        assert self.shown(buffer) == ["newest"]

    def test_a_display_that_is_shown_afterwards_is_not_rewritten(self) -> None:
        buffer = OutputBuffer(ROOMY)
        buffer.append(display("first"), 0)
        buffer.page.displays.update(update("first, updated"), 0)
        buffer.append(display("second"), 0)
        assert self.shown(buffer) == ["first, updated", "second"]

    def test_an_own_update_afterwards_counts(self) -> None:
        buffer = OutputBuffer(ROOMY)
        buffer.append(display("old"), 0)
        buffer.page.displays.update(update("from elsewhere"), 0)
        buffer.append(update("own"), 0)
        assert self.shown(buffer) == ["own"]

    def test_an_own_update_before_does_not_count(self) -> None:
        buffer = OutputBuffer(ROOMY)
        buffer.append(display("old"), 0)
        buffer.append(update("own"), 0)
        buffer.page.displays.update(update("from elsewhere"), 0)
        assert self.shown(buffer) == ["from elsewhere"]

    def test_they_apply_after_the_oldest_outputs_were_dropped(self) -> None:
        buffer = OutputBuffer(_OBJECT_BYTES * 2)
        for number in range(5):
            buffer.append(display(f"{number}", f"{number}"), 0)
            buffer.page.displays.update(update(f"{number}, updated", f"{number}"), 0)
            if number < 4:
                buffer.read()
        assert not buffer.complete
        left = self.shown(buffer)
        assert left == [f"{number}, updated" for number in range(5)][-len(left) :]

    @pytest.mark.parametrize("display_id", ["of another client", None])
    def test_others_leave_no_trace(self, display_id) -> None:
        buffer = OutputBuffer(ROOMY)
        buffer.append(display("mine"), 0)
        transient = {} if display_id is None else {"display_id": display_id}
        buffer.page.displays.update(UpdateDisplayData({"text/plain": "new"}, {}, transient), 0)
        assert buffer.page.outputs() == [display("mine")]
