"""Pages: what a cell, or a widget that takes a cell's outputs, has to show. Pure.

The policy. A page keeps what is to be seen, up to a limit in bytes; what was cleared or updated
does not count any more. What exceeds the limit is discarded and counted: whoever executes the
notebook raises OutputOverflow for it.
"""

from __future__ import annotations

from collections import defaultdict

from kernelproto.client.result import notebook_output
from kernelproto.notebook.nodes import Node, to_node
from kernelproto.wire.content import (
    ClearOutput,
    DisplayData,
    ErrorOutput,
    ExecuteResult,
    MimeBundle,
    Output,
    Stream,
    UpdateDisplayData,
)


class Page:
    """The outputs of one cell, or of one widget.

    Args:
        outputs: where they go, as nbformat has them.
        displays: those of the whole notebook.
        limit: how many bytes of outputs are kept.

    Attributes:
        discarded_messages: how many outputs were more than that.
        discarded_bytes: their size in bytes.
    """

    def __init__(self, outputs: list[Node], displays: Displays, limit: int) -> None:
        self.outputs = outputs
        self.discarded_messages = 0
        self.discarded_bytes = 0
        self._displays = displays
        self._limit = limit
        self._bytes = 0
        self._clear_before_next = False
        # What the last output, if it is text, consists of: joined once, not at every piece.
        self._pieces: list[str] = []

    def take(self, output: Output, size: int) -> None:
        """Take in an output whose message has *size* bytes."""
        match output:
            case ClearOutput(wait=True):
                self._clear_before_next = True
            case ClearOutput():
                self.clear()
            case UpdateDisplayData():
                self._displays.update(output, size)
            case Stream() | DisplayData() | ExecuteResult() | ErrorOutput():
                self._add(output, size)

    def clear(self) -> None:
        """Remove all outputs."""
        self._displays.forget(self)
        self._pieces.clear()
        self.outputs.clear()
        self._bytes = 0
        self._clear_before_next = False

    def settle(self) -> None:
        """Join the pieces of text; the outputs are complete then."""
        if len(self._pieces) > 1:
            self.outputs[-1]["text"] = text = "".join(self._pieces)
            self._pieces[:] = [text]

    def resize(self, difference: int) -> None:
        """Take note that an output has become larger by so many bytes."""
        self._bytes += difference

    def _add(self, output: Stream | DisplayData | ExecuteResult | ErrorOutput, size: int) -> None:
        if self._clear_before_next:
            self.clear()
        if self._bytes + size > self._limit:
            self.discarded_messages += 1
            self.discarded_bytes += size
            return
        self._bytes += size
        if isinstance(output, Stream) and self._ends_in(output.name):
            self._pieces.append(output.text)
            return
        self.settle()
        self._pieces[:] = [output.text] if isinstance(output, Stream) else []
        node = to_node(notebook_output(output))
        if isinstance(output, DisplayData | ExecuteResult) and output.display_id is not None:
            # The same thing, shown once more, is shown anew wherever it stands.
            self._displays.update(output, size)
            self._displays.add(output.display_id, _Shown(self, node, size))
        self.outputs.append(node)

    def _ends_in(self, stream: str) -> bool:
        return bool(self._pieces) and self.outputs[-1]["name"] == stream


class Displays:
    """Which outputs of a notebook, on any page, show which display."""

    def __init__(self) -> None:
        self._shown: defaultdict[str, list[_Shown]] = defaultdict(list)

    def add(self, display_id: str, shown: _Shown) -> None:
        """Take note of an output that shows a display."""
        self._shown[display_id].append(shown)

    def update(self, bundle: MimeBundle, size: int) -> None:
        """Rewrite all outputs that show the display of *bundle*, whose message has *size* bytes."""
        for shown in self._shown.get(bundle.display_id or "", ()):
            shown.node["data"] = to_node(bundle.data)
            shown.node["metadata"] = to_node(bundle.metadata)
            shown.page.resize(size - shown.size)
            shown.size = size

    def forget(self, page: Page) -> None:
        """Let the outputs of a page go."""
        for display_id, outputs in list(self._shown.items()):
            remaining = [shown for shown in outputs if shown.page is not page]
            if remaining:
                self._shown[display_id] = remaining
            else:
                del self._shown[display_id]


class _Shown:
    """An output that shows a display, and the size of what it shows."""

    __slots__ = ("node", "page", "size")

    def __init__(self, page: Page, node: Node, size: int) -> None:
        self.page = page
        self.node = node
        self.size = size
