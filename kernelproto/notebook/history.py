"""Keeps the code of executed notebooks out of the user's IPython history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from kernelproto.launch.finder import KernelFinder
from kernelproto.run import RunOptions

_OPTION = "--HistoryManager.hist_file"


async def without_history(kernel_type: str, options: RunOptions) -> RunOptions:
    """Return options that make an ipykernel keep the history in memory.

    This also avoids that concurrent kernels wait for the lock of a shared history file.

    Args:
        kernel_type: the kernel type.
        options: the options of the start; an explicit history option takes precedence.
    """
    finder = options.get("finder") or KernelFinder.from_entrypoints()
    params = dict(options.get("launch_params") or {})
    arguments = list(cast("Sequence[str]", params.get("extra_arguments", ())))
    if any(_OPTION in argument for argument in arguments):
        return options
    async for known, attributes in finder.find_kernels():
        if kernel_type in (known, known.partition("/")[2]):
            if not any("ipykernel" in word for word in attributes.get("argv", ())):
                return options
            params["extra_arguments"] = [*arguments, f"{_OPTION}=:memory:"]
            return {**options, "finder": finder, "launch_params": params}
    return options
