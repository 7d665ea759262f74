"""Hooks for the thread of ipykernel that receives all requests and sends all replies.

``forward``: the thread verifies and decodes each request to see which subshell it is for, and the
thread of the subshell does so once more. Without subshells, all requests are for the main thread,
so they are forwarded without being decoded first, and without a task of their own.

``task``: the main thread handles each request in a task, which a second task only waits for. Each
of them takes rounds of the event loop. Here there is one task.

``stream``: ipykernel 7.0 to 7.3 sends replies directly on the socket from which a stream reads the
requests. If a request arrives at that moment, the sender takes its notification, and the stream
leaves the request unread until another one arrives. With the hook the stream sends the replies, as
in ipykernel 7.4.

``direct``: in ipykernel 7.4 the stream queues each reply for the next round of its event loop. Here
the reply is sent at once, and then the stream looks for requests whose notification the sender has
taken.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from functools import wraps
from typing import Any

from .hook import KERNEL, Hook, Need, find

MANAGER = "ipykernel.subshell_manager:SubshellManager"
STREAM_OF_ZMQ = "zmq.eventloop.zmqstream:ZMQStream"

DELIMITER = b"<IDS|MSG>"

# Header and signature follow the delimiter.
HEADER = 2

# ipykernel's own code handles a header with one of these: the subshell may not exist, the reply to
# a comm may go to another subshell, and an escape sequence may hide the others.
SPECIAL = (b"subshell_id", b"comm_", b"\\")


class ForwardRaw:
    """The part of an IPythonKernel that forwards requests."""

    def shell_channel_thread_main(self: Any, msg: Any) -> Any:
        """Forward a request; return None, or a coroutine that does so.

        A request does not overtake one before it: the coroutine holds the lock from its first step,
        which comes before the next event of the event loop.
        """
        thread = self.shell_channel_thread
        manager = thread.manager
        if (
            self.session is not None
            and not manager._cache  # subshells are made in this thread
            and not thread.asyncio_lock.locked()
            and is_plain(msg)
        ):
            manager.get_shell_channel_to_subshell_socket(None).send_multipart(msg, copy=False)
            return None
        stock: Any = super()
        return stock.shell_channel_thread_main(msg)


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


def handle_in_one_task(_: Any) -> None:
    """Replace the function that makes the callbacks for requests."""
    find("ipykernel.subshell_manager")._async_in_context = in_one_task


def in_one_task(f: Callable[..., Any], context: Context | None = None) -> Callable[..., Any]:
    """Return a function that runs a coroutine function in a task, always in the same context."""
    context = copy_context() if context is None else context
    running_loop = find("asyncio").get_running_loop

    @wraps(f)
    def run_in_context(*args: Any, **kwargs: Any) -> Any:
        return running_loop().create_task(f(*args, **kwargs), context=context)

    return run_in_context


def reply_directly(_: Any) -> None:
    """Replace the method that sends a reply."""
    manager = find(MANAGER)
    manager._send_on_shell_channel = sending_directly(manager._send_on_shell_channel)


def sending_directly(stock: Callable[[Any, Any], None]) -> Any:
    """Return the method that sends a reply; called in the thread of the shell channel."""
    error = find("zmq").ZMQError

    def _send_on_shell_channel(self: Any, msg: Any) -> None:
        stream = self._shell_stream
        if stream.closed() or stream.sending() or stream._send_callback is not None:
            stock(self, msg)
            return
        try:
            stream.socket.send_multipart(msg)
        except error:
            stock(self, msg)  # which logs the error
        else:
            stream._rebuild_io_state()

    return _send_on_shell_channel


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
            f"{MANAGER}.get_shell_channel_to_subshell_socket",
            "self, subshell_id",
        ),
        Need(f"{MANAGER}._create_subshell", "self", "_cache"),
        Need("ipykernel.kernelbase:Kernel.start", "self", "on_recv shell_channel_thread_main"),
        Need(f"{STREAM_OF_ZMQ}._run_callback", "self, callback, *args, **kwargs", "Awaitable"),
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
            f"{MANAGER}._send_on_shell_channel",
            "self, msg",
            "send_multipart",
        ),
    ],
    mixins={KERNEL: ReplyByStream},
)

TASK = Hook(
    name="task",
    needs=[
        Need("ipykernel.utils:_async_in_context", "f, context", "copy_context wraps"),
        Need(f"{MANAGER}.set_on_recv_callback", "self, on_recv_callback", "_async_in_context"),
        Need(f"{MANAGER}._create_subshell", "self", "_async_in_context"),
        Need(f"{STREAM_OF_ZMQ}._run_callback", "self, callback, *args, **kwargs", "ensure_future"),
        # The argument that chooses the context of a task: new in Python 3.11.
        Need("asyncio:BaseEventLoop.create_task", "self, coro, *, name, context"),
    ],
    install=handle_in_one_task,
)

DIRECT = Hook(
    name="direct",
    needs=[
        Need(f"{MANAGER}._send_on_shell_channel", "self, msg", "_shell_stream send_multipart"),
        Need(f"{STREAM_OF_ZMQ}._rebuild_io_state", "self", "receiving sending _update_handler"),
        Need(f"{STREAM_OF_ZMQ}._update_handler", "self, state", "socket events add_callback"),
        Need(f"{STREAM_OF_ZMQ}.send_multipart", None, "_send_queue _send_callback _add_io_state"),
        Need(f"{STREAM_OF_ZMQ}.sending", "self", "_send_queue"),
    ],
    install=reply_directly,
)
