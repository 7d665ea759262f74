from __future__ import annotations

import pytest

from kernelproto.notebook.recorder import Recorder
from kernelproto.wire.content import DisplayData, Status, UpdateDisplayData
from kernelproto.wire.message import Message
from tests.notebook.test_widgets import SLIDER, Cell, factory, say


def unreadable(message: Message) -> Message:
    message.parts = (*message.parts[:3], b"no JSON")
    return message


def test_unreadable_output_leaves_a_placeholder() -> None:
    cell = Cell()
    cell.tell(say("before"))
    cell.recorder.offer(unreadable(cell.message(say("unreadable"))), "iopub")
    cell.recorder.offer(unreadable(cell.message(Status("busy"))), "iopub")

    assert cell.texts == [
        "before",
        "[an output is missing here: the kernel's stream cannot be read as Stream: "
        "Expecting value: line 1 column 1 (char 0)]\n",
    ]


@pytest.mark.parametrize("levels", [100, 400, 900])
def test_deeply_nested_output_is_left_out(levels: int) -> None:
    cell = Cell(Recorder(record_timing=True, limit=100_000))
    nested: list[object] = []
    for _ in range(levels):
        nested = [nested]
    cell.tell(DisplayData({"text/plain": "shown"}, {}, {"display_id": "x"}))
    cell.tell(DisplayData({"application/json": nested}))
    cell.tell(UpdateDisplayData({"application/json": nested}, {}, {"display_id": "x"}))
    cell.open("widget", SLIDER)
    cell.change("widget", state={"value": nested})
    cell.recorder.settle()

    first, second, *others = cell.node["outputs"]
    if levels == 100:
        assert first["data"] == second["data"] == {"application/json": nested}
        assert others == []
        assert cell.saved("widget")["state"]["value"] == nested
    else:
        assert first["data"] == {"text/plain": "shown"}
        assert second["text"].splitlines() == [
            "[an output is missing here: the kernel's display_data cannot be kept in a notebook: "
            "it has more than 300 levels of JSON]",
            "[an output is missing here: the kernel's update_display_data cannot be kept in a "
            "notebook: it has more than 300 levels of JSON]",
        ]
        assert "value" not in cell.saved("widget")["state"]


def test_messages_of_other_requests_are_ignored() -> None:
    cell, other = Cell(), Cell()
    cell.recorder.offer(other.message(say("of another request")), "iopub")
    cell.recorder.offer(factory.message("stream", say("without a request")), "iopub")

    assert cell.texts == []
