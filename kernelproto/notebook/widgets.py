"""Widgets: what their comms tell about them, and the outputs that some of them take. Pure.

A notebook that was saved shows its widgets without a kernel, from the state in its metadata. An
Output widget shows what cells print while it is entered; this is the frontend's work, so it is done
here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, cast

from kernelproto.exceptions import MalformedMessage
from kernelproto.notebook.nodes import Node, check_depth, to_node
from kernelproto.notebook.outputs import Displays, Page
from kernelproto.wire.content import CommMessage, CommOpen, Output, UpdateDisplayData
from kernelproto.wire.message import Message

MIME_TYPE = "application/vnd.jupyter.widget-state+json"

_OUTPUT_WIDGET = ("@jupyter-widgets/output", "OutputModel")


class Widgets:
    """The widgets of a notebook, each in its last state; closed ones can still be seen.

    Args:
        displays: those of the whole notebook.
        limit: how many bytes of outputs each Output widget keeps.
    """

    def __init__(self, displays: Displays, limit: int) -> None:
        self._displays = displays
        self._limit = limit
        self._models: dict[str, _Model] = {}
        # By request: the widgets that take its outputs, by comm; the last one has them.
        self._taking: dict[str, dict[str, _Model]] = {}
        # By comm: those that have taken outputs the kernel does not know of.
        self._changed: dict[str, _Model] = {}

    def receive(self, message: Message) -> None:
        """Take in what the kernel has sent on a comm.

        Raises:
            MalformedMessage: a widget cannot have this state; it keeps the one that it has.
        """
        content: CommOpen | CommMessage = message.content
        state = content.data.get("state")
        if not isinstance(state, Mapping):  # a message of the widget's own kind
            return
        changes = cast("Mapping[str, Any]", state)
        check_depth(changes)
        paths = content.data.get("buffer_paths") or ()
        if not _are(list, paths) or not all(_are(str | int, path) for path in paths):
            raise MalformedMessage("the buffer_paths of a widget are no paths")
        model = self._models.get(content.comm_id)
        if model is None:
            page = Page([], self._displays, self._limit)
            model = self._models[content.comm_id] = _Model(content.comm_id, page)
        model.state.update(changes)
        model.keep_buffers(paths, message.buffers)
        if (model.state.get("_model_module"), model.state.get("_model_name")) == _OUTPUT_WIDGET:
            self._note_output_widget(model, changes)

    def take(self, msg_id: str, output: Output, size: int) -> bool:
        """Take in an output of a request, if there is a widget that takes those.

        Args:
            msg_id: the request's.
            output: the output.
            size: of its message in bytes.

        Returns:
            Whether there is one; otherwise the output belongs to the cell.
        """
        taking = self._taking.get(msg_id)
        if not taking or isinstance(output, UpdateDisplayData):
            return False
        comm_id, model = next(reversed(taking.items()))
        model.page.take(output, size)
        self._changed[comm_id] = model
        return True

    def unsynchronised(self) -> dict[str, dict[str, Any]]:
        """Return what the kernel does not know of its widgets yet, by comm; only once."""
        self.settle()
        states = {name: {"outputs": model.page.outputs} for name, model in self._changed.items()}
        self._changed.clear()
        return states

    def settle(self) -> None:
        """Let the outputs be complete; see Page."""
        for page in self.pages():
            page.settle()

    def pages(self) -> Sequence[Page]:
        """Return the outputs of all Output widgets."""
        return [model.page for model in self._models.values()]

    def metadata(self) -> Node | None:
        """Return what belongs into a notebook's metadata as ``widgets``; None without widgets."""
        self.settle()
        models = {
            comm_id: model.saved()
            for comm_id, model in self._models.items()
            if "_model_name" in model.state
        }
        if not models:
            return None
        return to_node({MIME_TYPE: {"state": models, "version_major": 2, "version_minor": 0}})

    def _note_output_widget(self, model: _Model, changes: Mapping[str, Any]) -> None:
        if not _are(dict, changes.get("outputs", [])):
            raise MalformedMessage("the outputs of an Output widget are no objects")
        if not isinstance(changes.get("msg_id", ""), str | None):
            raise MalformedMessage("the msg_id of an Output widget is no string")
        if "outputs" in changes:
            model.page.clear()
            model.page.outputs += map(to_node, changes["outputs"])
        model.state["outputs"] = model.page.outputs
        if "msg_id" in changes:
            self._take_from(model, changes["msg_id"])

    def _take_from(self, model: _Model, msg_id: str | None) -> None:
        """Let a widget take the outputs of a request; of none where its id is empty."""
        before = self._taking.get(model.takes_from, {})
        before.pop(model.comm_id, None)
        if not before:
            self._taking.pop(model.takes_from, None)
        model.takes_from = msg_id or ""
        if msg_id:
            self._taking.setdefault(msg_id, {})[model.comm_id] = model


class _Model:
    """One widget: its state, what of it was sent as binary, and the outputs that it has taken."""

    def __init__(self, comm_id: str, page: Page) -> None:
        self.comm_id = comm_id
        self.page = page
        self.takes_from = ""
        self.state: dict[str, Any] = {}
        self._buffers: dict[tuple[Any, ...], dict[str, Any]] = {}

    def keep_buffers(self, paths: Sequence[Sequence[Any]], buffers: Sequence[Any]) -> None:
        for path, buffer in zip(paths, buffers, strict=False):
            data = base64.b64encode(buffer).decode()
            self._buffers[tuple(path)] = {"data": data, "encoding": "base64", "path": list(path)}

    def saved(self) -> dict[str, Any]:
        """Return it as the schema of @jupyter-widgets has it."""
        saved: dict[str, Any] = {
            "model_name": self.state.get("_model_name"),
            "model_module": self.state.get("_model_module"),
            "model_module_version": self.state.get("_model_module_version"),
            "state": self.state,
        }
        if self._buffers:
            saved["buffers"] = list(self._buffers.values())
        return saved


def _are(kind: Any, items: object) -> bool:
    if not isinstance(items, list | tuple):
        return False
    return all(isinstance(item, kind) for item in cast("Sequence[object]", items))
