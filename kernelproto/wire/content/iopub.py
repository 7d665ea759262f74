"""Contents of the iopub channel.

Specification: "Messages on the IOPub (PUB/SUB) channel".
"""

from __future__ import annotations

from typing import Any

from kernelproto.wire.content.base import Content


class Stream(Content, frozen=True):
    """Text that the code wrote to ``name``, "stdout" or "stderr". Section "Streams"."""

    name: str = "stdout"
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the output as a code cell of nbformat 4 has it."""
        return {"output_type": "stream", "name": self.name, "text": self.text}


class MimeBundle(Content, frozen=True):
    """One object in several formats: MIME type to data, and MIME type to metadata."""

    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    transient: dict[str, Any] = {}

    @property
    def display_id(self) -> str | None:
        """The id by which a later update_display_data finds this display."""
        display_id = self.transient.get("display_id")
        return display_id if isinstance(display_id, str) else None

    def _as_output(self, output_type: str, **fields: Any) -> dict[str, Any]:
        return {
            "output_type": output_type,
            "data": dict(self.data),
            "metadata": dict(self.metadata),
            **fields,
        }


class DisplayData(MimeBundle, frozen=True):
    """Something to show. Section "Display data"."""

    def to_dict(self) -> dict[str, Any]:
        """Return the output as a code cell of nbformat 4 has it, without ``transient``."""
        return self._as_output("display_data")


class UpdateDisplayData(MimeBundle, frozen=True):
    """New data for the displays with the same display_id. Section "Update display data"."""

    def to_dict(self) -> dict[str, Any]:
        """Return the update as a dict like that of a DisplayData, with ``transient``.

        Notebooks do not contain this message: a client that shows the outputs applies it.
        """
        return self._as_output("update_display_data", transient=dict(self.transient))


class ExecuteResult(MimeBundle, frozen=True):
    """The value of the executed expression. Section "Code outputs"."""

    execution_count: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the output as a code cell of nbformat 4 has it, without ``transient``."""
        return self._as_output("execute_result", execution_count=self.execution_count)


class ErrorOutput(Content, frozen=True):
    """An exception in the executed code. Section "Execution errors"."""

    ename: str = ""
    evalue: str = ""
    traceback: list[str] = []

    def to_dict(self) -> dict[str, Any]:
        """Return the output as a code cell of nbformat 4 has it."""
        return {
            "output_type": "error",
            "ename": self.ename,
            "evalue": self.evalue,
            "traceback": list(self.traceback),
        }


class ClearOutput(Content, frozen=True):
    """Remove the outputs so far; with ``wait`` only when the next output arrives."""

    wait: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the request as a dict, which notebooks do not contain."""
        return {"output_type": "clear_output", "wait": self.wait}


class ExecuteInput(Content, frozen=True):
    """The code of an execute_request, for all clients. Section "Code inputs"."""

    code: str = ""
    execution_count: int | None = None


class Status(Content, frozen=True):
    """``execution_state`` "busy", "idle" or "starting". Section "Kernel status"."""

    execution_state: str = ""


class IOPubWelcome(Content, frozen=True):
    """A subscription has reached the kernel. Section "Welcome message"."""

    subscription: str = ""


class CommOpen(Content, frozen=True, kw_only=True):
    """Open a comm, from either side. Section "Opening a Comm"."""

    comm_id: str
    target_name: str
    data: dict[str, Any] = {}
    target_module: str | None = None


class CommMessage(Content, frozen=True, kw_only=True):
    """A message on an open comm. Section "Comm Messages"."""

    comm_id: str
    data: dict[str, Any] = {}


class CommClose(Content, frozen=True, kw_only=True):
    """Close a comm. Section "Tearing Down Comms"."""

    comm_id: str
    data: dict[str, Any] = {}
