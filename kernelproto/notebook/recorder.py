"""Recorder: writes a kernel's messages into the cells of a notebook. Pure.

Each message goes to the cell whose request caused the message, even after the end of that cell:
threads of the code may write later.
"""

from __future__ import annotations

from typing import Any, Protocol, get_args

from kernelproto.exceptions import MalformedMessage, OutputOverflow
from kernelproto.notebook.nodes import Node, check_depth
from kernelproto.notebook.outputs import Displays, NotebookPage
from kernelproto.notebook.widgets import Widgets
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import (
    ErrorOutput,
    ExecuteInput,
    ExecuteReply,
    MimeBundle,
    Output,
    Status,
)
from kernelproto.wire.message import Message
from kernelproto.wire.refusals import OUTPUT_TYPES, RefusedOutput

_COMM_STATES = frozenset(("comm_open", "comm_msg"))
_OUTPUTS = get_args(Output)


class CellRequest(Protocol):
    """The request that executes a cell; the msg_id is known once the request was sent."""

    @property
    def msg_id(self) -> str | None: ...


class Recorder:
    """Writes a kernel's messages into the cells of a notebook; a Watcher of observers.

    Args:
        record_timing: whether to record the times of messages in the metadata of cells.
        limit: the maximum size of the outputs of each cell and each Output widget, in bytes.

    Attributes:
        widgets: the widgets of the notebook.
        changes: the number of changes to the notebook.
    """

    def __init__(self, *, record_timing: bool, limit: int) -> None:
        self._record_timing = record_timing
        self._limit = limit
        self._displays = Displays(limit)
        self.widgets = Widgets(self._displays, limit)
        self.changes = 0
        self._cells: dict[str, _Cell] = {}
        self._begun: tuple[CellRequest, _Cell] | None = None

    def begin(self, request: CellRequest, node: Node) -> None:
        """Write the messages caused by *request*, which is not sent yet, into the cell *node*."""
        self.settle()
        self.changes += 1
        node["outputs"] = []
        node["execution_count"] = None
        times: Node | None = None
        if self._record_timing:
            # A NotebookNode stores a copy of an assigned dict.
            node["metadata"]["execution"] = {}
            times = node["metadata"]["execution"]
        cell = _Cell(node, NotebookPage(node["outputs"], self._displays, self._limit), times)
        self._begun = (request, cell)

    def add(self, output: ErrorOutput, request: CellRequest) -> None:
        """Add an output to the cell of *request*."""
        self.settle()
        self.changes += 1
        self._cells[request.msg_id or ""].page.take(output, len(output.evalue))

    def settle(self) -> None:
        """Complete the outputs of all cells and widgets; see NotebookPage."""
        if self._begun is not None:
            request, cell = self._begun
            self._cells[request.msg_id or ""] = cell
            self._begun = None
        for page in self._pages():
            page.settle()

    def snapshot(self, nb: Node) -> dict[str, Any]:
        """Return a copy of the notebook, which stays the same when more messages arrive.

        The time grows with the number of cells and outputs, not with their sizes.
        """
        cells = [*self._cells.values(), *([] if self._begun is None else [self._begun[1]])]
        pages = {id(cell.node): cell.page for cell in cells}
        copies: list[dict[str, Any]] = []
        for node in nb["cells"]:
            copies.append(dict(node))
            if (page := pages.get(id(node))) is not None:
                copies[-1]["outputs"] = page.snapshot()
        return {**nb, "cells": copies}

    def overflow(self) -> OutputOverflow | None:
        """Return an OutputOverflow for discarded outputs; None if none were discarded."""
        parts: list[NotebookPage | Displays] = [*self._pages(), self._displays]
        for part in parts:
            if part.discarded_messages:
                return OutputOverflow(
                    f"{part.discarded_messages} outputs of {part.discarded_bytes} bytes were "
                    f"discarded, because a cell shows more than {self._limit} bytes",
                    discarded_messages=part.discarded_messages,
                    discarded_bytes=part.discarded_bytes,
                )
        return None

    def offer(self, message: Message, channel: ChannelName) -> None:
        """Observe a message, and record the messages of cells."""
        parent = message.parent_header
        cell = None if parent is None else self._cell(parent.msg_id)
        if parent is None or cell is None:
            return
        try:
            self._record(message, message.content, cell, parent.msg_id)
        except MalformedMessage as error:
            if message.msg_type in OUTPUT_TYPES:
                refused = RefusedOutput.of(message.msg_type, error)
                self._record(message, refused, cell, parent.msg_id)

    def fail(self, error: Exception) -> None:
        """Do nothing: the execution of the cell raises the error."""

    def resume(self) -> None:
        """Do nothing: no cell is running after a restart."""

    def _pages(self) -> list[NotebookPage]:
        return [*(cell.page for cell in self._cells.values()), *self.widgets.pages()]

    def _cell(self, msg_id: str) -> _Cell | None:
        if self._begun is not None and self._begun[0].msg_id == msg_id:
            return self._begun[1]
        return self._cells.get(msg_id)

    def _record(self, message: Message, content: Any, cell: _Cell, msg_id: str) -> None:
        self.changes += 1
        if isinstance(content, _OUTPUTS):
            _check_depth(content)
            self._take(content, message.size, cell, msg_id)
        elif isinstance(content, Status):
            cell.note_time(f"iopub.status.{content.execution_state}", message)
        elif isinstance(content, ExecuteInput):
            cell.node["execution_count"] = content.execution_count
            cell.note_time("iopub.execute_input", message)
        elif isinstance(content, ExecuteReply):
            cell.note_time("shell.execute_reply", message)
        elif message.msg_type in _COMM_STATES:
            self.widgets.receive(message)

    def _take(self, output: Output, size: int, cell: _Cell, msg_id: str) -> None:
        if not self.widgets.take(msg_id, output, size):
            cell.page.take(output, size)


class _Cell:
    """A cell with the page of its outputs."""

    def __init__(self, node: Node, page: NotebookPage, times: dict[str, str] | None) -> None:
        self.node = node
        self.page = page
        self._times = times

    def note_time(self, name: str, message: Message) -> None:
        """Record the time of a message."""
        if self._times is not None:
            self._times[name] = message.header.date


def _check_depth(output: Output) -> None:
    if isinstance(output, MimeBundle):
        check_depth(output.data, output.metadata)
