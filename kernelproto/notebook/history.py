"""IPython's history, which is the user's: notebooks that are executed have no place in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from kernelproto.launch.finder import KernelFinder
from kernelproto.run import RunOptions

_OPTION = "--HistoryManager.hist_file"


async def without_history(kernel_type: str, options: RunOptions) -> RunOptions:
    """Return options with which an ipykernel keeps its history in memory.

    In a file, which they share, kernels that run side by side would wait for each other as well.

    Args:
        kernel_type: the kernel type.
        options: how it is started; what they say about the history stays.
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
