"""Forward requests to the main thread without decoding them first.

In ipykernel a thread receives all requests, verifies and decodes each of them to see which subshell
it is for, and the thread of the subshell does so once more. Without subshells, all requests are for
the main thread.
"""

from __future__ import annotations

from typing import Any

from .hook import KERNEL, Hook, Need

DELIMITER = b"<IDS|MSG>"

# Header and signature follow the delimiter.
HEADER = 2

# ipykernel's own code handles a header with one of these: the subshell may not exist, the reply to
# a comm may go to another subshell, and an escape sequence may hide the others.
SPECIAL = (b"subshell_id", b"comm_", b"\\")


class ForwardRaw:
    """The part of an IPythonKernel that forwards requests."""

    async def shell_channel_thread_main(self: Any, msg: Any) -> None:
        """Forward a request."""
        thread = self.shell_channel_thread
        manager = thread.manager
        if self.session is not None and not manager._cache and is_plain(msg):
            async with thread.asyncio_lock:
                # Subshells are made in this thread, so there is still none, unless it had to wait.
                if not manager._cache:
                    socket = manager.get_shell_channel_to_subshell_socket(None)
                    socket.send_multipart(msg, copy=False)
                    return
        stock: Any = super()
        await stock.shell_channel_thread_main(msg)


def is_plain(frames: Any) -> bool:
    """Return whether a request is for the main thread if there are no subshells."""
    for number, frame in enumerate(frames):
        if frame.bytes == DELIMITER:
            if number + HEADER >= len(frames):
                return False
            header = bytes(frames[number + HEADER].bytes)
            return not any(word in header for word in SPECIAL)
    return False


HOOK = Hook(
    name="forward",
    needs=[
        Need(
            f"{KERNEL}.shell_channel_thread_main",
            "self, msg",
            "shell_channel_thread asyncio_lock session feed_identities deserialize get manager "
            "get_shell_channel_to_subshell_socket send_multipart",
        ),
        Need(
            "ipykernel.subshell_manager:SubshellManager.get_shell_channel_to_subshell_socket",
            "self, subshell_id",
        ),
        Need("ipykernel.subshell_manager:SubshellManager._create_subshell", "self", "_cache"),
        Need("ipykernel.shellchannel:ShellChannelThread.manager", "self", "_manager"),
    ],
    mixins={KERNEL: ForwardRaw},
)
