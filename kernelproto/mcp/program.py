"""The MCP server as a program, over standard input and output."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from importlib import metadata

from anyio import to_thread

from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.mcp.conversations import Conversations
from kernelproto.mcp.folders import Folders
from kernelproto.mcp.kernel_types import find_kernel_types
from kernelproto.mcp.kernels import PoolKernels, owner_of_files
from kernelproto.mcp.limits import Limits, Refused
from kernelproto.mcp.root import root_folder
from kernelproto.mcp.runner import PROGRESS_SECONDS
from kernelproto.mcp.server import KernelServer
from kernelproto.mcp.stdio import open_stdio
from kernelproto.pool import KernelPool


@asynccontextmanager
async def open_server(
    kernels: Sequence[str],
    root: str | None,
    limits: Limits,
    *,
    sandbox: Sandbox | None = None,
    finder: KernelFinder | None = None,
    progress_seconds: float = PROGRESS_SECONDS,
) -> AsyncGenerator[KernelServer]:
    """Yield an MCP server; kernels, and files in a temporary root, end with the block.

    Args:
        kernels: the kernel types that the model may choose; the first one is the default.
        root: the folder for the folders of the conversations; None means a temporary one.
        limits: the limits of the server.
        sandbox: the sandbox of each kernel; None means that kernels are not confined.
        finder: finds the kernel types; the installed providers by default.
        progress_seconds: the time between two reports about code that runs.

    Raises:
        NoSuchKernel: a kernel type does not exist.
        OSError: the root cannot be used.
    """
    finder = finder or KernelFinder.from_entrypoints()
    version = await to_thread.run_sync(metadata.version, "kernelproto")
    kernel_types = await find_kernel_types(finder, kernels)
    make_folders = partial(Folders, limits=limits, owner=owner_of_files(sandbox))
    async with root_folder(root) as folder:
        try:
            opened = await to_thread.run_sync(make_folders, folder)
        except Refused as refusal:
            raise OSError(str(refusal)) from None
        with closing(opened) as folders:
            async with (
                KernelPool(
                    finder=finder,
                    max_kernels=limits.kernels,
                    max_per_user=len(kernel_types.names),
                    idle_timeout=None,  # kernels end with their conversation
                ) as pool,
                Conversations(
                    PoolKernels(pool, sandbox), folders, limits, temporary=root is None
                ) as conversations,
            ):
                yield KernelServer(
                    conversations,
                    kernel_types,
                    version=version,
                    progress_seconds=progress_seconds,
                )


async def serve_stdio(
    kernels: Sequence[str], root: str | None, limits: Limits, sandbox: Sandbox | None
) -> None:
    """Serve one client over standard input and output, until their end; see open_server."""
    async with (
        open_server(kernels, root, limits, sandbox=sandbox) as server,
        open_stdio() as (reader, writer),
    ):
        mcp = server.mcp_server()
        await mcp.run(reader, writer, mcp.create_initialization_options())
