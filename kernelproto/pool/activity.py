"""What counts as activity of a kernel, and what is only the noise of looking after it. Pure."""

from __future__ import annotations

from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

# Clients ask these by themselves: to see whether the kernel is there, or to look into it.
_HOUSEKEEPING = frozenset(
    (
        "kernel_info_request",
        "comm_info_request",
        "connect_request",
        "debug_request",
        "interrupt_request",
        "shutdown_request",
        "usage_request",
    )
)

# What a kernel says when nobody has asked it for anything.
_SIGNS_OF_LIFE = frozenset(("status", "iopub_welcome"))


def is_activity(message: Message, channel: ChannelName) -> bool:
    """Return whether a message shows that the kernel works for somebody.

    Everything published on iopub does, except for what belongs to housekeeping: kernel_info,
    comm_info, debug, interrupt, shutdown and the like.
    """
    if channel != "iopub":
        return False
    if message.parent_header is None:
        return message.msg_type not in _SIGNS_OF_LIFE
    return message.parent_header.msg_type not in _HOUSEKEEPING
