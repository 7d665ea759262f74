"""Widgets: their state is kept, and Output widgets take outputs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from kernelproto.notebook.recorder import Recorder
from kernelproto.notebook.widgets import MIME_TYPE
from kernelproto.wire.content import (
    ClearOutput,
    CommClose,
    CommMessage,
    CommOpen,
    Content,
    DisplayData,
    ExecuteRequest,
    Stream,
    UpdateDisplayData,
    message_type,
)
from kernelproto.wire.message import Message, MessageFactory

SLIDER = {"_model_name": "SliderModel", "_model_module": "controls", "_model_module_version": "2"}
OUTPUT = {"_model_name": "OutputModel", "_model_module": "@jupyter-widgets/output", "outputs": []}

count = itertools.count()
factory = MessageFactory(
    session="kernel", username="", new_id=lambda: f"id_{next(count)}", now=lambda: "today"
)


class Cell:
    """A running cell that receives messages of the kernel."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder = recorder or Recorder(record_timing=True, limit=1000)
        self.widgets = self.recorder.widgets
        self.node: Any = {"metadata": {}}
        self._request = factory.message("execute_request", ExecuteRequest(code=""))
        self.recorder.begin(self._request, self.node)

    @property
    def msg_id(self) -> str:
        return self._request.msg_id

    @property
    def texts(self) -> list[str]:
        self.recorder.settle()
        return [output["text"] for output in self.node["outputs"]]

    def tell(self, *contents: Content, buffers: tuple[bytes, ...] = ()) -> None:
        for content in contents:
            self.recorder.offer(self.message(content, buffers), "iopub")

    def message(self, content: Content, buffers: tuple[bytes, ...] = ()) -> Message:
        kind = message_type(type(content))
        return factory.message(kind, content, parent=self._request, buffers=buffers)

    def open(self, comm_id: str, state: dict[str, Any]) -> None:
        self.tell(CommOpen(comm_id=comm_id, target_name="jupyter.widget", data={"state": state}))

    def change(self, comm_id: str, buffers: tuple[bytes, ...] = (), **data: Any) -> None:
        self.tell(CommMessage(comm_id=comm_id, data=data), buffers=buffers)

    def saved(self, comm_id: str) -> Any:
        return self.widgets.metadata()[MIME_TYPE]["state"][comm_id]


def say(text: str) -> Stream:
    return Stream("stdout", text)


def outputs(*texts: str) -> dict[str, Any]:
    return {
        "outputs": [{"output_type": "stream", "name": "stdout", "text": text} for text in texts]
    }


def test_no_widgets() -> None:
    cell = Cell()
    cell.tell(CommOpen(comm_id="c", target_name="other", data={"state": {"a": 1}}))
    cell.tell(CommMessage(comm_id="d", data={"method": "custom"}))

    assert cell.widgets.metadata() is None


def test_last_state_is_kept_after_the_widget_is_closed() -> None:
    cell = Cell()
    cell.open("slider", {**SLIDER, "value": 1, "max": 10})
    cell.change("slider", method="update", state={"value": 2})
    cell.change("slider", method="custom", content={"event": "click"})
    cell.tell(CommClose(comm_id="slider"))

    assert cell.saved("slider") == {
        "model_name": "SliderModel",
        "model_module": "controls",
        "model_module_version": "2",
        "state": {**SLIDER, "value": 2, "max": 10},
    }


def test_binary_state_is_kept_by_its_path() -> None:
    cell = Cell()
    cell.open("image", SLIDER)
    for value in (b"\x01", b"\x02\x03"):
        cell.change("image", (value,), method="update", state={}, buffer_paths=[["value"]])

    assert cell.saved("image")["buffers"] == [
        {"data": "AgM=", "encoding": "base64", "path": ["value"]}
    ]


def test_entered_output_widget_captures_outputs() -> None:
    cell = Cell()
    cell.open("out", OUTPUT)
    cell.tell(say("before"))
    cell.change("out", state={"msg_id": cell.msg_id})
    cell.tell(say("taken "), say("twice"))
    cell.change("out", state={"msg_id": ""})
    cell.tell(say(" after"))

    assert cell.texts == ["before after"]
    assert cell.widgets.unsynchronised() == {"out": outputs("taken twice")}
    assert cell.widgets.unsynchronised() == {}
    assert cell.saved("out")["state"]["outputs"] == outputs("taken twice")["outputs"]


def test_innermost_output_widget_captures() -> None:
    cell = Cell()
    for name in ("outer", "inner"):
        cell.open(name, OUTPUT)
        cell.change(name, state={"msg_id": cell.msg_id})
    cell.tell(say("inner"))
    cell.change("inner", state={"msg_id": ""})
    cell.tell(say("outer"))

    assert cell.widgets.unsynchronised() == {"inner": outputs("inner"), "outer": outputs("outer")}
    assert cell.texts == []


def test_output_widget_captures_outputs_of_one_request() -> None:
    first = Cell()
    first.open("out", OUTPUT)
    first.change("out", state={"msg_id": first.msg_id})
    second = Cell(first.recorder)
    second.tell(say("second"))
    first.tell(say("first"))

    assert second.texts == ["second"]
    assert first.widgets.unsynchronised() == {"out": outputs("first")}


@pytest.mark.parametrize("wait", [False, True])
def test_an_output_widget_is_cleared(wait: bool) -> None:
    cell = Cell()
    cell.open("out", OUTPUT)
    cell.change("out", state={"msg_id": cell.msg_id})
    cell.tell(say("gone"), ClearOutput(wait), say("kept"))

    assert cell.widgets.unsynchronised() == {"out": outputs("kept")}


def test_the_kernel_may_set_the_outputs_itself() -> None:
    cell = Cell()
    cell.open("out", {**OUTPUT, **outputs("old")})
    cell.change("out", state=outputs("new"))
    cell.change("out", state={"msg_id": cell.msg_id})
    cell.tell(say("more"))

    assert cell.widgets.unsynchronised() == {"out": outputs("new", "more")}


def test_a_display_in_an_output_widget_is_updated() -> None:
    cell = Cell()
    cell.open("out", OUTPUT)
    cell.change("out", state={"msg_id": cell.msg_id})
    cell.tell(DisplayData({"text/plain": "a"}, {}, {"display_id": "x"}))
    cell.change("out", state={"msg_id": ""})
    cell.tell(UpdateDisplayData({"text/plain": "b"}, {}, {"display_id": "x"}))

    assert cell.saved("out")["state"]["outputs"][0]["data"] == {"text/plain": "b"}


def test_outputs_beyond_the_limit_of_an_output_widget() -> None:
    cell = Cell()
    cell.open("out", OUTPUT)
    cell.change("out", state={"msg_id": cell.msg_id})
    cell.tell(say("x" * 2000))

    assert cell.recorder.overflow().discarded_messages == 1


@pytest.mark.parametrize(
    "data",
    [
        {"state": {"msg_id": []}},
        {"state": {"msg_id": 5}},
        {"state": {"outputs": 5}},
        {"state": {"outputs": {"a": 1}}},
        {"state": {"outputs": [5]}},
        {"state": {}, "buffer_paths": 5},
        {"state": {}, "buffer_paths": [5]},
        {"state": {}, "buffer_paths": [[[]]]},
    ],
)
def test_widget_with_values_of_wrong_types(data: dict[str, Any]) -> None:
    cell = Cell()
    cell.open("out", OUTPUT)
    cell.change("out", (b"x",), **data)
    cell.change("out", state={"msg_id": cell.msg_id})
    cell.tell(say("text"))

    assert cell.widgets.unsynchronised() == {"out": outputs("text")}
