"""Page: the visible outputs, after clear_output and display updates. Pure.

Results, live outputs and the cells of notebooks are pages. All pages of one kernel share the
kernel's displays: an update is stored once, and a page applies it when the page is read. So the
time for n displays and m updates grows with n + m, even if they all have the same display_id and
many pages show them.

The policy. A page has no limit of its own: the owner of the page bounds ``size``, which includes
the updates that come through the page. ``Displays`` bounds all other updates: only the last update
of each display is kept, up to a limit in bytes for all of them. An update beyond the limit is not
applied, and the pages that show the display are not complete.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from weakref import WeakValueDictionary

import msgspec

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
from kernelproto.wire.refusals import RefusedOutput

LastingOutput = Stream | DisplayData | ExecuteResult | ErrorOutput

# A page shows only so many RefusedOutputs: a kernel could send them without end.
_MOST_REFUSED = 10


class Displays:
    """The displays of one kernel, by display_id; a display ends with the last page that shows it.

    Args:
        limit: the bytes of updates from other pages and clients that are kept.

    Attributes:
        updates: the number of updates.
        discarded_messages: the number of updates beyond the limit.
        discarded_bytes: the size of these updates in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.updates = 0
        self.discarded_messages = 0
        self.discarded_bytes = 0
        self._limit = limit
        self._bytes = 0
        self._displays: WeakValueDictionary[str, Display] = WeakValueDictionary()

    def __bool__(self) -> bool:
        """Whether any page shows a display."""
        return bool(self._displays)

    def find(self, display_id: str) -> Display:
        """Return the display with this id; a new one if no page shows the id."""
        display = self._displays.get(display_id)
        if display is None:
            display = self._displays[display_id] = Display(self)
        return display

    def update(self, update: MimeBundle, size: int) -> None:
        """Update a display on all pages; the same update may be given twice.

        Args:
            update: the display_id and the new data.
            size: the size of the update's message in bytes; 0 if a page counts the update.
        """
        display = self._displays.get(update.display_id or "")
        if display is None or display.update is update:
            return
        if self._bytes - display.size + size > self._limit:
            self.discarded_messages += 1
            self.discarded_bytes += size
            display.outdated = True
            return
        self.updates += 1
        self._bytes += size - display.size
        display.note(update, size, self.updates)

    def release(self, size: int) -> None:
        """Take note that an update of *size* bytes was dropped."""
        self._bytes -= size


class Display:
    """The current contents of a display.

    Attributes:
        update: the last update; None before the first one.
        size: the size of the update's message in bytes; 0 if a page counts the update.
        version: the value of ``Displays.updates`` at that update.
        outdated: whether a later update was not kept.
    """

    __slots__ = ("__weakref__", "_displays", "outdated", "size", "update", "version")

    def __init__(self, displays: Displays) -> None:
        self.update: MimeBundle | None = None
        self.size: int = 0
        self.version = 0
        self.outdated = False
        self._displays = displays

    def __del__(self) -> None:
        self._displays.release(self.size)

    def note(self, update: MimeBundle, size: int, version: int) -> None:
        """Show *update* from now on."""
        self.update = update
        self.size = size
        self.version = version
        self.outdated = False


class Shown(msgspec.Struct, eq=False, gc=False):
    """One output on a page.

    Attributes:
        output: the output, as of *version*.
        display: the output's display; None for outputs without a display_id.
        version: the value of ``Displays.updates`` when *output* was current.
    """

    output: LastingOutput
    size: int
    display: Display | None = None
    version: int = 0

    def refresh(self) -> bool:
        """Apply the last update of the display; return whether there was a new one."""
        display = self.display
        if display is None or display.version <= self.version or display.update is None:
            return False
        self.version = display.version
        data, metadata = display.update.data, display.update.metadata
        self.output = msgspec.structs.replace(self.output, data=data, metadata=metadata)
        return True


class Page(ABC):
    """Visible outputs; each subclass stores them in another form.

    Args:
        displays: the displays of the kernel.

    Attributes:
        displays: the displays of the kernel.
        size: the bytes shown: for each output the size of the message, or of the last update that
            came through this page.
    """

    def __init__(self, displays: Displays) -> None:
        self.displays = displays
        self.size: int = 0
        self._charges: dict[str, _Charge] = {}
        self._clear_before_next = False
        self._refused = 0

    @property
    def complete(self) -> bool:
        """Whether no output is missing."""
        outdated = any(charge.display.outdated for charge in self._charges.values())
        return not (self._refused or outdated)

    def take(self, output: Output, size: int) -> None:
        """Take in an output; its message has *size* bytes."""
        if isinstance(output, ClearOutput):
            if output.wait:
                self._clear_before_next = True
            else:
                self.clear()
        elif isinstance(output, UpdateDisplayData):
            self._update(output, size)
        else:
            if self._clear_before_next:
                self.clear()
            if type(output) is RefusedOutput:
                self._refused += 1
                if self._refused > _MOST_REFUSED:
                    return
            self._add(output, size)

    def clear(self) -> None:
        """Remove all outputs."""
        self._charges.clear()
        self.size = 0
        self._clear_before_next = False

    @abstractmethod
    def _add(self, output: LastingOutput, size: int) -> None:
        """Show one more output and count the size with ``_charge``."""

    def _charge(self, output: LastingOutput, size: int) -> Shown:
        """Count an output's size, and return the output with the display."""
        self.size += size
        if not isinstance(output, MimeBundle) or (display_id := output.display_id) is None:
            return Shown(output, size)
        charge = self._charges.get(display_id)
        if charge is None:
            charge = self._charges[display_id] = _Charge(self.displays.find(display_id))
        charge.count += 1
        charge.size += size
        return Shown(output, size, charge.display, self.displays.updates)

    def _update(self, update: MimeBundle, size: int) -> None:
        """Update a display; count the size for each output here that shows the display."""
        charge = self._charges.get(update.display_id or "")
        if charge is None:
            self.displays.update(update, size)
        else:
            self.displays.update(update, 0)
            self.size += charge.count * size - charge.size
            charge.size = charge.count * size

    def _discharge(self, shown: Shown) -> None:
        """Subtract an output's size."""
        output = shown.output
        if shown.display is None or not isinstance(output, MimeBundle):
            self.size -= shown.size
            return
        display_id = output.display_id or ""
        charge = self._charges[display_id]
        part = charge.size // charge.count
        self.size -= part
        charge.size -= part
        charge.count -= 1
        if not charge.count:
            del self._charges[display_id]


class OutputPage(Page):
    """The page of an execution: the outputs as Structs.

    Args:
        displays: the displays of the kernel.
    """

    def __init__(self, displays: Displays) -> None:
        super().__init__(displays)
        self._shown: deque[Shown] = deque()
        self._dropped = False

    @property
    def complete(self) -> bool:
        """Whether no output is missing."""
        return super().complete and not self._dropped

    def outputs(self) -> list[LastingOutput]:
        """Return the outputs, in order."""
        for shown in self._shown:
            if shown.display is not None:
                shown.refresh()
        return [shown.output for shown in self._shown]

    def take(self, output: Output, size: int) -> None:
        """Take in an output; its message has *size* bytes."""
        if type(output) is Stream and not self._clear_before_next:  # the most frequent kind
            self.size += size
            self._shown.append(Shown(output, size))
        else:
            super().take(output, size)

    def clear(self) -> None:
        """Remove all outputs."""
        super().clear()
        self._shown.clear()

    def shrink(self, limit: int) -> None:
        """Drop the oldest outputs until at most *limit* bytes are shown."""
        while self.size > limit and self._shown:
            self._dropped = True
            self._discharge(self._shown.popleft())

    def _add(self, output: LastingOutput, size: int) -> None:
        self._shown.append(self._charge(output, size))


class _Charge:
    """The outputs of a page that show one display: their number and their total size."""

    __slots__ = ("count", "display", "size")

    def __init__(self, display: Display) -> None:
        self.display = display
        self.count = 0
        self.size: int = 0
