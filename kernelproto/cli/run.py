"""``kernelproto run``: runs code in a new kernel."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import anyio
import msgspec

from kernelproto.cli.errors import FAILED, INTERRUPTED, KILLED, CliError
from kernelproto.cli.outputs import OutputPrinter
from kernelproto.cli.questions import LineReader
from kernelproto.cli.signals import receive_signals
from kernelproto.cli.table import printable
from kernelproto.launch.finder import KernelFinder
from kernelproto.run import run_kernel
from kernelproto.terminal import ask_on_terminal
from kernelproto.wire.content import ErrorOutput


def read_code(file: str | None, code: str | None) -> str:
    """Return the code given on the command line.

    Args:
        file: the path of a file, or "-" for standard input.
        code: the code itself.

    Raises:
        CliError: both or neither are given, or the file is a notebook or not UTF-8.
        OSError: the file cannot be read.
    """
    if (file is None) == (code is None):
        raise CliError("give the code as FILE, as - for standard input, or as -c CODE")
    if file is None:
        return code or ""
    if file.endswith(".ipynb"):
        raise CliError(f"{file} is a notebook; use `kernelproto notebook {file}`")
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CliError(f"{file} is not UTF-8 text: invalid byte {error.start}") from None


def read_sandbox(text: str | None) -> dict[str, Any]:
    """Return the launch parameters for the JSON of ``--sandbox``; none without the option.

    Raises:
        CliError: the text is not JSON.
    """
    if text is None:
        return {}
    try:
        return {"sandbox": msgspec.json.decode(text)}
    except msgspec.DecodeError as error:
        raise CliError(f"--sandbox must be JSON, such as '{{}}': {error}") from None


def run_code(
    kernel_type: str,
    code: str,
    *,
    images: Path | None,
    code_from_stdin: bool,
    launch_params: Mapping[str, object],
) -> int:
    """Run code in a new kernel; return the exit status: 1 after an error, N after ``sys.exit(N)``.

    Args:
        kernel_type: the kernel type.
        code: the code, in the kernel's language.
        images: the folder for images; None means a temporary folder.
        code_from_stdin: whether the code came from standard input; then ``input()`` reads from the
            terminal.
        launch_params: the launch parameters of the kernel.
    """
    return anyio.run(_run, kernel_type, code, OutputPrinter(images), code_from_stdin, launch_params)


def print_plan(kernel_type: str, launch_params: Mapping[str, object]) -> int:
    """Print how a kernel of this type would be launched, as JSON; start nothing."""
    plan_launch = partial(KernelFinder.from_entrypoints().plan, launch_params=launch_params)
    plan = anyio.run(plan_launch, kernel_type)
    description = plan.describe()
    if plan.sandbox is None:
        description["cwd"] = description["cwd"] or os.getcwd()
    print(msgspec.json.format(msgspec.json.encode(description), indent=2).decode())
    return 0


def _is_exit(output: object) -> TypeGuard[ErrorOutput]:
    return isinstance(output, ErrorOutput) and output.ename == "SystemExit"


def _exit_status(argument: str) -> int:
    """Return the exit status of ``sys.exit(argument)``; print an argument that is no number."""
    if argument in ("", "None"):
        return 0
    try:
        return int(argument) & 0xFF
    except ValueError:
        print(printable(argument), file=sys.stderr)
        return FAILED


async def _run(
    kernel_type: str,
    code: str,
    printer: OutputPrinter,
    code_from_stdin: bool,
    launch_params: Mapping[str, object],
) -> int:
    # Elsewhere a thread waits: terminals are not descriptors that an event loop can wait for.
    ask = LineReader(code_from_stdin=code_from_stdin).answer if os.name == "posix" else None
    kernel_running = run_kernel(kernel_type, launch_params=launch_params)
    async with receive_signals() as signals, kernel_running as kernel:
        with signals.interrupting(kernel.interrupt):
            execution = kernel.execute(code, on_input=ask or ask_on_terminal)
            async for output in execution:
                if not _is_exit(output):
                    printer.print(output)
            result = await execution
        if result.status == "ok":
            return 0
        if _is_exit(result.error):
            return _exit_status(result.error.evalue)
        return INTERRUPTED if signals.interrupts else FAILED
    return KILLED + (signals.ended_by or 0)
