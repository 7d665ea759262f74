"""``kernelproto mcp``: serves kernels to language models over standard input and output."""

from __future__ import annotations

import os
from collections.abc import Sequence

import anyio
import msgspec

from kernelproto.cli.errors import KILLED, CliError, need
from kernelproto.cli.signals import receive_signals
from kernelproto.launch.process.confinement import sandbox_fault
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.mcp.limits import Limits


def serve_mcp(
    kernels: Sequence[str],
    root: str | None,
    sandbox: str | None,
    *,
    timeout: float,
    max_timeout: float,
    expires: float,
    max_kernels: int,
    max_conversations: int,
) -> int:
    """Serve one client until the end of standard input or a signal; return the exit status.

    Args:
        kernels: the kernel types that the model may choose.
        root: the folder for the conversations' files; None means a temporary one.
        sandbox: the sandbox of each kernel, in JSON; None means that kernels are not confined.
        timeout: see Limits.
        max_timeout: see Limits.
        expires: see Limits.
        max_kernels: the limit ``kernels``.
        max_conversations: the limit ``conversations``.

    Raises:
        CliError: this system or a limit does not allow to serve, or the sandbox is invalid or
            cannot be enforced.
        NoSuchKernel: a kernel type does not exist.
    """
    need("mcp")
    if os.name != "posix":
        raise CliError("kernelproto mcp needs Linux, macOS or another POSIX system")
    try:
        limits = Limits(
            timeout=timeout,
            max_timeout=max_timeout,
            expires=expires,
            kernels=max_kernels,
            conversations=max_conversations,
        )
    except ValueError as error:
        raise CliError(str(error)) from None
    return anyio.run(_serve, kernels, root, limits, _read_sandbox(sandbox))


def _read_sandbox(text: str | None) -> Sandbox | None:
    if text is None:
        return None
    try:
        sandbox = msgspec.json.decode(text, type=Sandbox)
    except msgspec.DecodeError as error:
        raise CliError(f"--sandbox must be the settings of a sandbox in JSON: {error}") from None
    if isinstance(sandbox.uid, str):
        raise CliError("--sandbox: uid must be one number: this user owns the files")
    reason = sandbox_fault(sandbox)
    if reason is not None:
        raise CliError(f"--sandbox: this machine cannot enforce it: {reason}")
    return sandbox


async def _serve(
    kernels: Sequence[str], root: str | None, limits: Limits, sandbox: Sandbox | None
) -> int:
    from kernelproto.mcp.program import serve_stdio  # which needs the extra

    async with receive_signals(interrupts=0) as signals:
        await serve_stdio(kernels, root, limits, sandbox)
        return 0
    return KILLED + (signals.ended_by or 0)
