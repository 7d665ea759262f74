"""The words of errors for users of the server: the cause, and the next step for the user. Pure.

Many errors advise the Python program that calls the library, for example to pass an argument. A
client over HTTP has no such argument. Only the first line of an error is for users: further lines
quote the kernel's command and output.
"""

from __future__ import annotations

from kernelproto.exceptions import (
    ClientClosed,
    InvalidKernelSpec,
    KernelProtoError,
    NoSuchKernel,
    PoolError,
    PoolFull,
    QuotaExceeded,
)

# The room for a reason in a close frame (RFC 6455, 5.5).
MOST_REASON_BYTES = 123

_MOST_KERNEL_TYPES = 10
_MOST_NAME_CHARACTERS = 100

# For ``ClientClosed.ended``.
_ENDS = {
    "evicted": "this kernel was idle, and the server needed its place: start another one",
    "culled": "this kernel was idle for too long and was shut down: start another one",
    "expired": "this kernel had its maximum age and was shut down: start another one",
    "released": "this kernel was shut down: start another one",
    "lost": "this kernel has died: start another one",
}

# Where a sentence may end early.
_BREAKS = (". ", "; ", ": ", ", ")


def user_message(error: KernelProtoError) -> str:
    """Return the message about an error for a user."""
    match error:
        case PoolFull():
            return "all kernels of this server are in use: try again later"
        case QuotaExceeded(limit=limit):
            kernels = "1 kernel" if limit == 1 else f"{limit} kernels"
            return f"you have {kernels}, as many as you may: shut one down first"
        case PoolError():
            return "this kernel was ended, or exchanged for another one: look at your kernels again"
        case NoSuchKernel(name=name, available=available) if available:
            there_are = ", ".join(available[:_MOST_KERNEL_TYPES])
            return f"no kernel type {name[:_MOST_NAME_CHARACTERS]!r}: choose one of {there_are}"
        case NoSuchKernel(name=name):
            return f"no kernel type {name[:_MOST_NAME_CHARACTERS]!r}: the server has none"
        case InvalidKernelSpec(key="metadata.kernel_provisioner" | "metadata.process_proxy"):
            return "this kernel type needs a launcher that this server lacks: choose another one"
        case InvalidKernelSpec():
            return "this kernel type is broken: tell the administrator of this server"
        case ClientClosed(ended=str(ended)) if ended in _ENDS:
            return _ENDS[ended]
        case _:
            return str(error).partition("\n")[0]


def close_reason(text: str) -> str:
    """Return a text as the reason of a close frame: a whole sentence that fits into it.

    A longer text ends where a part of it does, or else at a word, with an ellipsis.
    """
    line = text.partition("\n")[0].strip().rstrip(".")
    sentence = f"{line[:1].upper()}{line[1:]}."
    if len(sentence.encode()) <= MOST_REASON_BYTES:
        return sentence
    room = sentence.encode()[: MOST_REASON_BYTES - 1].decode(errors="ignore")
    part = max((room.rpartition(end)[0] for end in _BREAKS), key=len)
    if part:
        return f"{part}."
    room = sentence.encode()[: MOST_REASON_BYTES - 3].decode(errors="ignore")
    return f"{room.rpartition(' ')[0] or room}\N{HORIZONTAL ELLIPSIS}"
