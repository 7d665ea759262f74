"""Widgets: records the state of widgets, and the outputs captured by Output widgets. Pure.

A saved notebook shows widgets without a kernel, from the state in the metadata. Capturing outputs
for an Output widget is the task of the frontend, and therefore of this module.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from kernelproto.exceptions import MalformedMessage
from kernelproto.notebook.nodes import Node, check_depth, to_node
from kernelproto.notebook.outputs import Displays, NotebookPage
from kernelproto.wire.content import CommMessage, CommOpen, Output, UpdateDisplayData
from kernelproto.wire.message import Message

MIME_TYPE = "application/vnd.jupyter.widget-state+json"

_OUTPUT_WIDGET = ("@jupyter-widgets/output", "OutputModel")


class Widgets:
    """The widgets of a notebook with their latest states; closed widgets are kept.

    Args:
        displays: the displays of the whole notebook.
        limit: the maximum size of each Output widget's outputs in bytes.
    """

    def __init__(self, displays: Displays, limit: int) -> None:
        self._displays = displays
        self._limit = limit
        self._models: dict[str, _Model] = {}
        # By request: the widgets that capture the outputs, by comm; the last widget gets the
        # outputs.
        self._capturing: dict[str, dict[str, _Model]] = {}
        # By comm: the widgets with captured outputs that the kernel has not received yet.
        self._changed: dict[str, _Model] = {}

    def receive(self, message: Message) -> None:
        """Record a comm message of the kernel.

        Raises:
            MalformedMessage: the state is invalid; the widget keeps the old state.
        """
        content: CommOpen | CommMessage = message.content
        state = content.data.get("state")
        if not isinstance(state, Mapping):  # a custom message of the widget
            return
        changes = cast("Mapping[str, Any]", state)
        check_depth(changes)
        paths = content.data.get("buffer_paths") or ()
        if not _are(list, paths) or not all(_are(str | int, path) for path in paths):
            raise MalformedMessage("the buffer_paths of a widget are not lists of keys")
        model = self._models.get(content.comm_id)
        if model is None:
            page = NotebookPage([], self._displays, self._limit)
            model = self._models[content.comm_id] = _Model(content.comm_id, page)
        model.state.update(changes)
        model.keep_buffers(paths, message.buffers)
        if (model.state.get("_model_module"), model.state.get("_model_name")) == _OUTPUT_WIDGET:
            self._note_output_widget(model, changes)

    def take(self, msg_id: str, output: Output, size: int) -> bool:
        """Add an output of a request to the capturing widget, if there is one.

        Args:
            msg_id: the msg_id of the request.
            output: the output.
            size: the size of the message in bytes.

        Returns:
            Whether a widget has captured the output; otherwise the output belongs to the cell.
        """
        capturing = self._capturing.get(msg_id)
        if not capturing or isinstance(output, UpdateDisplayData):
            return False
        comm_id, model = next(reversed(capturing.items()))
        model.page.take(output, size)
        self._changed[comm_id] = model
        return True

    def unsynchronised(self) -> dict[str, dict[str, Any]]:
        """Return the states that the kernel has not received yet, by comm, and forget them."""
        self.settle()
        states = {name: {"outputs": model.page.outputs} for name, model in self._changed.items()}
        self._changed.clear()
        return states

    def settle(self) -> None:
        """Complete the outputs; see NotebookPage."""
        for page in self.pages():
            page.settle()

    def pages(self) -> Sequence[NotebookPage]:
        """Return the outputs of all Output widgets."""
        return [model.page for model in self._models.values()]

    def metadata(self) -> Node | None:
        """Return the value of ``widgets`` in a notebook's metadata; None without widgets."""
        self.settle()
        metadata = _metadata(self._models, _Model.saved)
        return None if metadata is None else to_node(metadata)

    def snapshot(self) -> dict[str, Any] | None:
        """Return a copy of ``metadata``, which stays the same when more messages arrive."""
        return _metadata(self._models, _Model.snapshot)

    def _note_output_widget(self, model: _Model, changes: Mapping[str, Any]) -> None:
        if not _are(dict, changes.get("outputs", [])):
            raise MalformedMessage("the outputs of an Output widget are not objects")
        if not isinstance(changes.get("msg_id", ""), str | None):
            raise MalformedMessage("the msg_id of an Output widget is not a string")
        if "outputs" in changes:
            model.page.clear()
            model.page.outputs += map(to_node, changes["outputs"])
        model.state["outputs"] = model.page.outputs
        if "msg_id" in changes:
            self._capture(model, changes["msg_id"])

    def _capture(self, model: _Model, msg_id: str | None) -> None:
        """Make a widget capture the outputs of a request, or of none if *msg_id* is empty."""
        before = self._capturing.get(model.captures, {})
        before.pop(model.comm_id, None)
        if not before:
            self._capturing.pop(model.captures, None)
        model.captures = msg_id or ""
        if msg_id:
            self._capturing.setdefault(msg_id, {})[model.comm_id] = model


class _Model:
    """One widget: its state, its binary buffers, and the outputs that it has captured."""

    def __init__(self, comm_id: str, page: NotebookPage) -> None:
        self.comm_id = comm_id
        self.page = page
        self.captures = ""
        self.state: dict[str, Any] = {}
        self._buffers: dict[tuple[Any, ...], dict[str, Any]] = {}

    def keep_buffers(self, paths: Sequence[Sequence[Any]], buffers: Sequence[Any]) -> None:
        for path, buffer in zip(paths, buffers, strict=False):
            data = base64.b64encode(buffer).decode()
            self._buffers[tuple(path)] = {"data": data, "encoding": "base64", "path": list(path)}

    def saved(self) -> dict[str, Any]:
        """Return the state in the format of @jupyter-widgets."""
        saved: dict[str, Any] = {
            "model_name": self.state.get("_model_name"),
            "model_module": self.state.get("_model_module"),
            "model_module_version": self.state.get("_model_module_version"),
            "state": self.state,
        }
        if self._buffers:
            saved["buffers"] = list(self._buffers.values())
        return saved

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of ``saved``, which stays the same when more messages arrive."""
        state = dict(self.state)
        if state.get("outputs") is self.page.outputs:
            state["outputs"] = self.page.snapshot()
        return {**self.saved(), "state": state}


def _metadata(
    models: Mapping[str, _Model], save: Callable[[_Model], dict[str, Any]]
) -> dict[str, Any] | None:
    saved = {name: save(model) for name, model in models.items() if "_model_name" in model.state}
    if not saved:
        return None
    return {MIME_TYPE: {"state": saved, "version_major": 2, "version_minor": 0}}


def _are(kind: Any, items: object) -> bool:
    if not isinstance(items, list | tuple):
        return False
    return all(isinstance(item, kind) for item in cast("Sequence[object]", items))
