"""Pages: what a cell, or a widget that takes a cell's outputs, has to show. Pure.

The policy. A page keeps what is to be seen, up to a limit in bytes; what was cleared or updated
does not count any more. What exceeds the limit is discarded and counted: whoever executes the
notebook raises OutputOverflow for it.
"""

from __future__ import annotations

from kernelproto.client import page
from kernelproto.client.page import Displays, LastingOutput, Shown
from kernelproto.notebook.nodes import Node, to_node
from kernelproto.wire.content import MimeBundle, Stream

__all__ = ["Displays", "Page"]


class Page(page.Page):
    """The outputs of one cell, or of one widget.

    Outputs are written at once. Text in pieces is joined, and updated displays are written, by
    ``settle``.

    Args:
        outputs: where they go, as nbformat has them.
        displays: those of the whole notebook.
        limit: how many bytes of outputs are kept.

    Attributes:
        outputs: where they go.
        discarded_messages: how many outputs were more than that.
        discarded_bytes: their size in bytes.
    """

    def __init__(self, outputs: list[Node], displays: Displays, limit: int) -> None:
        super().__init__(displays)
        self.outputs = outputs
        self.discarded_messages = 0
        self.discarded_bytes = 0
        self._limit = limit
        # What the last output, if it is text, consists of: joined once, not at every piece.
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
        """Join the pieces of text and apply the updates; the outputs are complete then."""
        self._join()
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
            # The same display, shown once more, is shown anew wherever it stands.
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
