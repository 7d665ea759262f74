"""The content of every message type of the messaging specification 5.5, one Struct each.

There is a module for each channel. ``content_type(msg_type)`` returns the Struct of a message type,
or ``dict`` for an unknown type. Fields that some kernels leave out have defaults. Extra fields are
ignored here and survive in ``Message.raw_content``.
"""

from __future__ import annotations

from typing import Any

from kernelproto.wire.content.base import (
    Content,
    Reply,
    Request,
)
from kernelproto.wire.content.control import (
    CreateSubshellReply,
    CreateSubshellRequest,
    DeleteSubshellReply,
    DeleteSubshellRequest,
    InterruptReply,
    InterruptRequest,
    ListSubshellReply,
    ListSubshellRequest,
    ShutdownReply,
    ShutdownRequest,
    UsageReply,
    UsageRequest,
)
from kernelproto.wire.content.iopub import (
    ClearOutput,
    CommClose,
    CommMessage,
    CommOpen,
    DisplayData,
    ErrorOutput,
    ExecuteInput,
    ExecuteResult,
    IOPubWelcome,
    MimeBundle,
    Status,
    Stream,
    UpdateDisplayData,
)
from kernelproto.wire.content.shell import (
    CommInfoReply,
    CommInfoRequest,
    CompleteReply,
    CompleteRequest,
    ConnectReply,
    ConnectRequest,
    ExecuteReply,
    ExecuteRequest,
    HistoryReply,
    HistoryRequest,
    InspectReply,
    InspectRequest,
    IsCompleteReply,
    IsCompleteRequest,
    KernelInfoReply,
    KernelInfoRequest,
    LanguageInfo,
)
from kernelproto.wire.content.stdin import (
    InputReply,
    InputRequest,
)

__all__ = [
    "CONTENT_TYPES",
    "ClearOutput",
    "CommClose",
    "CommInfoReply",
    "CommInfoRequest",
    "CommMessage",
    "CommOpen",
    "CompleteReply",
    "CompleteRequest",
    "ConnectReply",
    "ConnectRequest",
    "Content",
    "CreateSubshellReply",
    "CreateSubshellRequest",
    "DeleteSubshellReply",
    "DeleteSubshellRequest",
    "DisplayData",
    "ErrorOutput",
    "ExecuteInput",
    "ExecuteReply",
    "ExecuteRequest",
    "ExecuteResult",
    "HistoryReply",
    "HistoryRequest",
    "IOPubWelcome",
    "InputReply",
    "InputRequest",
    "InspectReply",
    "InspectRequest",
    "InterruptReply",
    "InterruptRequest",
    "IsCompleteReply",
    "IsCompleteRequest",
    "KernelInfoReply",
    "KernelInfoRequest",
    "LanguageInfo",
    "ListSubshellReply",
    "ListSubshellRequest",
    "MimeBundle",
    "Output",
    "Reply",
    "Request",
    "ShutdownReply",
    "ShutdownRequest",
    "Status",
    "Stream",
    "UpdateDisplayData",
    "UsageReply",
    "UsageRequest",
    "content_type",
    "message_type",
]

Output = Stream | DisplayData | UpdateDisplayData | ExecuteResult | ErrorOutput | ClearOutput

# debug_request, debug_reply and debug_event stay dicts, because the Debug Adapter Protocol defines
# them.
CONTENT_TYPES: dict[str, type[Content]] = {
    "execute_request": ExecuteRequest,
    "execute_reply": ExecuteReply,
    "inspect_request": InspectRequest,
    "inspect_reply": InspectReply,
    "complete_request": CompleteRequest,
    "complete_reply": CompleteReply,
    "history_request": HistoryRequest,
    "history_reply": HistoryReply,
    "is_complete_request": IsCompleteRequest,
    "is_complete_reply": IsCompleteReply,
    "connect_request": ConnectRequest,
    "connect_reply": ConnectReply,
    "comm_info_request": CommInfoRequest,
    "comm_info_reply": CommInfoReply,
    "kernel_info_request": KernelInfoRequest,
    "kernel_info_reply": KernelInfoReply,
    "shutdown_request": ShutdownRequest,
    "shutdown_reply": ShutdownReply,
    "interrupt_request": InterruptRequest,
    "interrupt_reply": InterruptReply,
    "create_subshell_request": CreateSubshellRequest,
    "create_subshell_reply": CreateSubshellReply,
    "delete_subshell_request": DeleteSubshellRequest,
    "delete_subshell_reply": DeleteSubshellReply,
    "list_subshell_request": ListSubshellRequest,
    "list_subshell_reply": ListSubshellReply,
    "usage_request": UsageRequest,
    "usage_reply": UsageReply,
    "stream": Stream,
    "display_data": DisplayData,
    "update_display_data": UpdateDisplayData,
    "execute_result": ExecuteResult,
    "error": ErrorOutput,
    "clear_output": ClearOutput,
    "execute_input": ExecuteInput,
    "status": Status,
    "iopub_welcome": IOPubWelcome,
    "comm_open": CommOpen,
    "comm_msg": CommMessage,
    "comm_close": CommClose,
    "input_request": InputRequest,
    "input_reply": InputReply,
}


def content_type(msg_type: str) -> type[Any]:
    """Return the Struct for the content of *msg_type*; ``dict`` for an unknown type."""
    return CONTENT_TYPES.get(msg_type, dict)


def message_type(kind: type[Content]) -> str:
    """Return the msg_type of the messages with a *kind* as their content.

    Raises:
        KeyError: there is no such message type.
    """
    return _MESSAGE_TYPES[kind]


_MESSAGE_TYPES = {content: msg_type for msg_type, content in CONTENT_TYPES.items()}
