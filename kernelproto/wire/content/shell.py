"""Contents of the shell channel.

Specification: "Messages on the shell (ROUTER/DEALER) channel".
"""

from __future__ import annotations

from typing import Any

from kernelproto.wire.content.base import Content, Reply, Request


class ExecuteRequest(Request, frozen=True, kw_only=True):
    """Run code. Section "Execute"."""

    code: str
    silent: bool = False
    store_history: bool = True
    user_expressions: dict[str, str] = {}
    allow_stdin: bool = False
    stop_on_error: bool = True


class ExecuteReply(Reply, frozen=True, kw_only=True):
    """How the execution ended. Section "Execution results"."""

    execution_count: int | None = None
    payload: list[dict[str, Any]] = []
    user_expressions: dict[str, Any] = {}

    @property
    def aborted(self) -> bool:
        """Whether the kernel did not run the code; code with an execution count did run."""
        return self.execution_count is None and super().aborted

    @property
    def interrupted(self) -> bool:
        """Whether the code ran and was interrupted, which some kernels report as "abort" too."""
        return self.execution_count is not None and super().aborted


class InspectRequest(Request, frozen=True, kw_only=True):
    """Ask about the object at *cursor_pos*, in characters. Section "Introspection"."""

    code: str
    cursor_pos: int
    detail_level: int = 0


class InspectReply(Reply, frozen=True, kw_only=True):
    """A description of the object, as a MIME bundle."""

    found: bool = False
    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class CompleteRequest(Request, frozen=True, kw_only=True):
    """Ask for completions at *cursor_pos*, in characters. Section "Completion"."""

    code: str
    cursor_pos: int


class CompleteReply(Reply, frozen=True, kw_only=True):
    """Possible replacements for ``code[cursor_start:cursor_end]``."""

    matches: list[str] = []
    cursor_start: int = 0
    cursor_end: int = 0
    metadata: dict[str, Any] = {}


class HistoryRequest(Request, frozen=True, kw_only=True):
    """Ask for inputs; ``hist_access_type`` is "range", "tail" or "search". Section "History"."""

    output: bool = False
    raw: bool = True
    hist_access_type: str = "tail"
    session: int | None = None
    start: int | None = None
    stop: int | None = None
    n: int | None = None
    pattern: str | None = None
    unique: bool = False


class HistoryReply(Reply, frozen=True, kw_only=True):
    """Entries ``(session, line, input)``, with outputs ``(session, line, (input, output))``."""

    history: list[tuple[int, int, Any]] = []


class IsCompleteRequest(Request, frozen=True, kw_only=True):
    """Ask whether code is ready to run. Section "Code completeness"."""

    code: str


class IsCompleteReply(Reply, frozen=True, kw_only=True):
    """``status`` "complete", "incomplete", "invalid" or "unknown", and the next line's indent."""

    status: str = "unknown"
    indent: str = ""


class ConnectRequest(Request, frozen=True, kw_only=True):
    """Ask for the ports; deprecated since 5.1. Section "Connect"."""


class ConnectReply(Reply, frozen=True, kw_only=True):
    """The ports of the kernel's channels."""

    shell_port: int | None = None
    iopub_port: int | None = None
    stdin_port: int | None = None
    hb_port: int | None = None
    control_port: int | None = None


class CommInfoRequest(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Ask which comms are open. Section "Comm info"."""

    target_name: str | None = None


class CommInfoReply(Reply, frozen=True, kw_only=True):
    """The open comms: comm_id to ``{"target_name": ...}``."""

    comms: dict[str, dict[str, Any]] = {}


class KernelInfoRequest(Request, frozen=True, kw_only=True):
    """Ask for a description of the kernel. Section "Kernel info"."""


class LanguageInfo(Content, frozen=True, kw_only=True):
    """The language that a kernel runs."""

    name: str = ""
    version: str = ""
    mimetype: str = ""
    file_extension: str = ""
    pygments_lexer: str = ""
    codemirror_mode: Any = ""
    nbconvert_exporter: str = ""


class KernelInfoReply(Reply, frozen=True, kw_only=True):
    """The kernel's name, version, language and features."""

    protocol_version: str = ""
    implementation: str = ""
    implementation_version: str = ""
    language_info: LanguageInfo = LanguageInfo()
    banner: str = ""
    debugger: bool = False
    help_links: list[dict[str, str]] = []
    supported_features: list[str] = []
