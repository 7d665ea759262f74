"""``kernelproto list``: the kernel types that can be launched."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import anyio

from kernelproto.cli import table
from kernelproto.cli.screen import print_json, print_table, terminal_width
from kernelproto.interfaces import KernelAttributes
from kernelproto.launch.finder import KernelFinder

SEARCHED_FOLDERS = (
    "Kernelspecs are searched in JUPYTER_PATH and in the data folders of `jupyter --paths`."
)
_NONE_FOUND = (
    f"No kernel types found. To get a Python kernel: pip install ipykernel\n{SEARCHED_FOLDERS}"
)


def print_kernel_types(*, as_json: bool) -> None:
    """Print the kernel types, as a table or with all their attributes as JSON."""
    kernel_types = anyio.run(find_kernel_types)
    if as_json:
        print_json(kernel_types)
    elif kernel_types:
        print_table(format_table(kernel_types, terminal_width(), sys.stdout.encoding))
        for name, about in kernel_types.items():
            if "unavailable" in about:
                print(f"{name} cannot be launched: {about['unavailable']}", file=sys.stderr)
    else:
        print(_NONE_FOUND, file=sys.stderr)


async def find_kernel_types() -> dict[str, KernelAttributes]:
    """Return the attributes of all kernel types, by name."""
    return {name: about async for name, about in KernelFinder.from_entrypoints().find_kernels()}


def format_table(
    kernel_types: Mapping[str, KernelAttributes],
    width: int | None = None,
    encoding: str = "utf-8",
) -> list[str]:
    """Return the lines of a table of kernel types.

    Names are never shortened, so that they can be copied. Unprintable characters are replaced.

    Args:
        kernel_types: the attributes of the kernel types, by name.
        width: the columns of the terminal; None means no limit.
        encoding: the encoding of the terminal.
    """
    return table.format_table(
        ("NAME", "DISPLAY NAME", "LANGUAGE"),
        [
            (name, about.get("display_name", ""), about.get("language", ""))
            for name, about in kernel_types.items()
        ],
        shrinking=(1, 2),
        width=width,
        encoding=encoding,
    )
