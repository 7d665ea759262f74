"""nbclient's NotebookClient with kernels that kernelproto launches."""

from __future__ import annotations

from typing import Any

from kernelproto.extras import importing
from kernelproto.jupyter.client import AsyncKernelManager, DeadKernel

with importing("jupyter"):
    import nbclient
    from jupyter_core.utils import run_sync
    from nbclient.exceptions import DeadKernelError
    from traitlets import default


class UsesKernelProto(nbclient.NotebookClient):
    """The part that NotebookClient and ExecutePreprocessor have in common."""

    @default("kernel_manager_class")
    def _kernel_manager_class_default(self) -> type[AsyncKernelManager]:
        return AsyncKernelManager

    async def async_execute_cell(self, *args: Any, **options: Any) -> Any:
        """Execute a cell; arguments, result and exceptions as in nbclient."""
        try:
            return await super().async_execute_cell(*args, **options)
        except DeadKernel as error:
            raise DeadKernelError(str(error)) from error

    execute_cell = run_sync(async_execute_cell)

    async def async_wait_for_reply(self, *args: Any, **options: Any) -> dict[str, Any] | None:
        """Wait for a reply; arguments, result and exceptions as in nbclient."""
        try:
            return await super().async_wait_for_reply(*args, **options)
        except DeadKernel as error:
            raise DeadKernelError(str(error)) from error

    wait_for_reply = run_sync(async_wait_for_reply)


class NotebookClient(UsesKernelProto):
    """nbclient's NotebookClient; hooks, traits and exceptions are the same.

    kernelproto starts the kernel. When the kernel dies, the cell raises DeadKernelError at once.
    With a KernelManager of your own, pass one of ``kernelproto.jupyter.client``.
    """
