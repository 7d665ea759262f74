"""Facts: the data of a kernel that the host passes on to every owner."""

from __future__ import annotations

import msgspec

from kernelproto.launch.process.limits import Limits


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Data for every later owner, from the program that starts a kernel.

    Args:
        kernel_type: ``provider/name``.
        command: the command line.
        interrupt_mode: "signal" or "message".
        limits: the limits of each process of the kernel.
        lifts_linger: whether the kernel has a linger time only until it is ready.
    """

    kernel_type: str = ""
    command: tuple[str, ...] = ()
    interrupt_mode: str = "signal"
    limits: Limits | None = None
    lifts_linger: bool = False
