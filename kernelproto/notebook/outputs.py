"""NotebookPage: the visible outputs of a cell, or of an Output widget. Pure.

The policy: a page keeps visible outputs up to a limit in bytes. Cleared and replaced outputs no
longer count. Outputs beyond the limit are discarded and counted, and the runner of the notebook
raises OutputOverflow.
"""

from __future__ import annotations

from typing import Any

from kernelproto.client import page
from kernelproto.client.page import Displays, LastingOutput, Shown
from kernelproto.notebook.nodes import Node, to_node
from kernelproto.wire.content import MimeBundle, Stream

__all__ = ["Displays", "NotebookPage"]


class NotebookPage(page.Page):
    """The outputs of one cell, or of one widget, as nbformat outputs.

    Outputs are added immediately. ``settle`` joins pieces of text and applies display updates.

    Args:
        outputs: the list that receives the nbformat outputs.
        displays: the displays of the whole notebook.
        limit: the maximum size of the outputs in bytes.

    Attributes:
        outputs: the list of nbformat outputs.
        discarded_messages: the number of outputs beyond the limit.
        discarded_bytes: the size of these outputs in bytes.
    """

    def __init__(self, outputs: list[Node], displays: Displays, limit: int) -> None:
        super().__init__(displays)
        self.outputs = outputs
        self.discarded_messages = 0
        self.discarded_bytes = 0
        self._limit = limit
        # The pieces of the last output, if a text; joining at every piece would be quadratic.
        self._pieces: list[str] = []
        self._updatable: list[tuple[Shown, Node]] = []
        self._settled = 0

    def clear(self) -> None:
        """Remove all outputs."""
        super().clear()
        self._pieces.clear()
        self._updatable.clear()
        self.outputs.clear()

    def settle(self) -> None:
        """Complete the outputs: join the pieces of text and apply the display updates."""
        self._join()
        self._refresh()

    def snapshot(self) -> list[dict[str, Any]]:
        """Return copies of the outputs, which stay the same when more messages arrive.

        The pieces of the last text are not joined: nbformat allows a list of texts.
        """
        self._refresh()
        copies: list[dict[str, Any]] = [dict(output) for output in self.outputs]
        if len(self._pieces) > 1:
            copies[-1]["text"] = list(self._pieces)
        return copies

    def _refresh(self) -> None:
        if self._settled == self.displays.updates:
            return
        self._settled = self.displays.updates
        for shown, node in self._updatable:
            if shown.refresh() and isinstance(shown.output, MimeBundle):
                node["data"] = to_node(shown.output.data)
                node["metadata"] = to_node(shown.output.metadata)

    def _add(self, output: LastingOutput, size: int) -> None:
        if self.size + size > self._limit:
            self.discarded_messages += 1
            self.discarded_bytes += size
            return
        if isinstance(output, MimeBundle):
            # A display with a known display_id also updates the earlier occurrences.
            self._update(output, size)
        shown = self._charge(output, size)
        if isinstance(output, Stream) and self._ends_in(output.name):
            self._pieces.append(output.text)
            return
        self._join()
        self._pieces[:] = [output.text] if isinstance(output, Stream) else []
        node = to_node(output.to_dict())
        if shown.display is not None:
            self._updatable.append((shown, node))
        self.outputs.append(node)

    def _join(self) -> None:
        if len(self._pieces) > 1:
            self.outputs[-1]["text"] = text = "".join(self._pieces)
            self._pieces[:] = [text]

    def _ends_in(self, stream: str) -> bool:
        return bool(self._pieces) and self.outputs[-1]["name"] == stream
