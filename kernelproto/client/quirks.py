"""Quirks: the deviations of single kernels, by the ``implementation`` in their kernel_info_reply.

One place for all of them, so that a kernel is added without touching the client.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernelproto.wire.conversation import Conversation

# The seconds of silence that end an execution, for kernels that report "idle" before their last
# outputs have left them.
TRAILING_SECONDS: Mapping[str, float] = {
    # Deno sends the output of console.log and the value independently of the reply and "idle": up
    # to 93 ms later when the machine is busy.
    "Deno kernel": 0.15,
}

# Kernels that run executions side by side, so that a reply to a later one proves nothing about an
# earlier one.
SIDE_BY_SIDE = frozenset(("akernel", "async_kernel"))


def apply_quirks(conversation: Conversation, implementation: str) -> None:
    """Adapt a conversation to its kernel."""
    conversation.trailing_seconds = TRAILING_SECONDS.get(implementation, 0.0)
    conversation.side_by_side |= implementation in SIDE_BY_SIDE
