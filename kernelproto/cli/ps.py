"""``kernelproto ps``: the running kernels of this user."""

from __future__ import annotations

import sys
import time

import anyio

from kernelproto.cli.inventory import RunningKernel, find_running_kernels, with_states
from kernelproto.cli.screen import print_json, print_table, terminal_width
from kernelproto.cli.table import format_table

_SHORTEST_ID = 8  # almost always unique


def print_running_kernels(*, as_json: bool) -> None:
    """Print a table of the running kernels, or a JSON array of objects."""
    kernels = anyio.run(with_states, find_running_kernels())
    if as_json:
        print_json([_as_object(kernel) for kernel in kernels])
    elif kernels:
        print_table(format_kernels(kernels, time.time(), terminal_width(), sys.stdout.encoding))
    else:
        print("No kernels are running.", file=sys.stderr)


def format_kernels(
    kernels: list[RunningKernel], now: float, width: int | None, encoding: str
) -> list[str]:
    """Return the lines of a table of running kernels."""
    shown = short_ids([kernel.kernel_id for kernel in kernels])
    return format_table(
        ("ID", "KERNEL TYPE", "PID", "STATE", "AGE", "MEMORY", "OWNER"),
        [
            (
                shown[kernel.kernel_id],
                kernel.kernel_type or "?",
                "?" if kernel.process is None else kernel.process.pid,
                kernel.state,
                format_age(now - kernel.started),
                "?" if kernel.memory is None else f"{kernel.memory / 2**20:.0f} MiB",
                kernel.owner,
            )
            for kernel in kernels
        ],
        shrinking=(1, 6),
        right=(2, 4, 5),
        width=width,
        encoding=encoding,
    )


def short_ids(kernel_ids: list[str]) -> dict[str, str]:
    """Return unique prefixes of ids, all of the same length."""
    length = _SHORTEST_ID
    while len({kernel_id[:length] for kernel_id in kernel_ids}) < len(set(kernel_ids)):
        length += 1
    return {kernel_id: kernel_id[:length] for kernel_id in kernel_ids}


def format_age(seconds: float) -> str:
    """Return a time in the two largest units, such as ``1h 5m``."""
    rest = max(int(seconds), 0)
    for unit, smaller, size, part in (("d", "h", 86400, 3600), ("h", "m", 3600, 60)):
        if rest >= size:
            return f"{rest // size}{unit} {rest % size // part}{smaller}"
    return f"{rest // 60}m {rest % 60}s" if rest >= 60 else f"{rest}s"


def _as_object(kernel: RunningKernel) -> dict[str, object]:
    record = kernel.record
    return {
        "kernel_id": kernel.kernel_id,
        "kernel_type": kernel.kernel_type,
        "connection_file": kernel.connection_file,
        "state": kernel.state,
        "pid": None if kernel.process is None else kernel.process.pid,
        "started": kernel.started,
        "memory": kernel.memory,
        "owner": kernel.owner_pid,
        "detached": record is not None and (record.detached or record.host is not None),
    }
