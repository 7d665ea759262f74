"""Error messages for users of the server: the cause, and the user's next step. Pure.

Many errors of the library advise a Python program, for example to pass an argument. HTTP clients
have no such argument. Users see only the first line of an error, because further lines quote the
kernel's command and output.
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

# The maximum size of the reason in a close frame (RFC 6455, 5.5).
MOST_REASON_BYTES = 123

_MOST_KERNEL_TYPES = 10
_MOST_NAME_CHARACTERS = 100

# By ``ClientClosed.ended``.
_ENDS = {
    "evicted": "this kernel was idle, and another user needed a kernel: start another one",
    "culled": "this kernel was idle for too long and was shut down: start another one",
    "expired": "this kernel reached its maximum age and was shut down: start another one",
    "released": "this kernel was shut down: start another one",
    "lost": "this kernel died: start another one",
}

# A sentence may be cut at one of these.
_BREAKS = (". ", "; ", ": ", ", ")


def user_message(error: KernelProtoError) -> str:
    """Return the message for a user about an error."""
    match error:
        case PoolFull():
            return "all kernels of this server are in use: try again later"
        case QuotaExceeded(limit=limit):
            kernels = "1 kernel" if limit == 1 else f"{limit} kernels"
            return f"you may have at most {kernels} at the same time: shut one down first"
        case PoolError():
            return "this kernel was shut down or replaced: reload the list of your kernels"
        case NoSuchKernel(name=name, available=available) if available:
            there_are = ", ".join(available[:_MOST_KERNEL_TYPES])
            return f"no kernel type {name[:_MOST_NAME_CHARACTERS]!r}: choose one of {there_are}"
        case NoSuchKernel(name=name):
            return (
                f"no kernel type {name[:_MOST_NAME_CHARACTERS]!r}: this server has no kernel types"
            )
        case InvalidKernelSpec(key="metadata.kernel_provisioner" | "metadata.process_proxy"):
            return "this kernel type needs a launcher that this server lacks: choose another one"
        case InvalidKernelSpec():
            return "this kernel type is broken: tell the administrator of this server"
        case ClientClosed(ended=str(ended)) if ended in _ENDS:
            return _ENDS[ended]
        case _:
            return str(error).partition("\n")[0]


def close_reason(text: str) -> str:
    """Return the reason for a close frame: a whole sentence of at most MOST_REASON_BYTES.

    A longer text is cut after a clause, or else after a word, with an ellipsis.
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
