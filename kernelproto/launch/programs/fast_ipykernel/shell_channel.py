"""Two hooks for the thread of ipykernel that receives all requests and sends all replies.

``forward``: the thread verifies and decodes each request to see which subshell it is for, and the
thread of the subshell does so once more. Without subshells, all requests are for the main thread,
so they are forwarded without being decoded first.

``stream``: ipykernel 7.0 to 7.3 sends replies directly on the socket from which a stream reads the
requests. If a request arrives at that moment, the sender takes its notification, and the stream
leaves the request unread until another one arrives. With the hook the stream sends the replies, as
in ipykernel 7.4.
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


class ReplyByStream:
    """The part of an IPythonKernel that lets the stream of the shell channel send the replies."""

    def start(self: Any) -> None:
        """Start the kernel."""
        stock: Any = super()
        stock.start()
        thread = self.shell_channel_thread
        if thread is not None and hasattr(thread.manager, "_shell_socket"):
            thread.manager._shell_socket = self.shell_stream


FORWARD = Hook(
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

STREAM = Hook(
    name="stream",
    needs=[
        Need(f"{KERNEL}.start", "self"),
        Need("ipykernel.shellchannel:ShellChannelThread.manager", "self", "_manager"),
        Need(
            "ipykernel.subshell_manager:SubshellManager._send_on_shell_channel",
            "self, msg",
            "send_multipart",
        ),
    ],
    mixins={KERNEL: ReplyByStream},
)
