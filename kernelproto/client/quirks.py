"""What single kernels are known to do, by the ``implementation`` in their kernel_info_reply."""

from __future__ import annotations

from collections.abc import Mapping

# How long there must be no more outputs before an execution counts as ended, in seconds, for
# kernels that report "idle" before their last outputs have left them.
TRAILING_SECONDS: Mapping[str, float] = {
    # What console.log prints, and the value, are sent beside the reply and "idle": up to 93 ms
    # later when the machine is busy.
    "Deno kernel": 0.15,
}

# Kernels that run executions side by side, so that a reply to a later one proves nothing about an
# earlier one.
SIDE_BY_SIDE = frozenset(("akernel", "async_kernel"))
