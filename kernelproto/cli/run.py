"""``kernelproto run``: runs code in a new kernel."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import anyio
import msgspec

from kernelproto.cli.errors import FAILED, INTERRUPTED, KILLED, CliError
from kernelproto.cli.list import find_kernel_types
from kernelproto.cli.outputs import OutputPrinter
from kernelproto.cli.questions import LineReader
from kernelproto.cli.script import Script, other_language, read_script
from kernelproto.cli.signals import receive_signals
from kernelproto.cli.table import printable
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.spec.naming import OWN_KERNEL, launch_names
from kernelproto.run import run_kernel
from kernelproto.supervise.kernel import Kernel
from kernelproto.terminal import ask_on_terminal
from kernelproto.wire.content import ErrorOutput


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


def run_file(
    kernel_type: str | None,
    file: str | None,
    arguments: Sequence[str],
    code: str | None,
    *,
    images: Path | None,
    launch_params: Mapping[str, object],
) -> int:
    """Run code in a new kernel; return the exit status: 1 after an error, N after ``sys.exit(N)``.

    Args:
        kernel_type: the kernel type; None means that of the running Python.
        file: the path of the file, or "-" for standard input; with *code*, the first argument.
        arguments: the arguments after the file.
        code: the code, instead of a file.
        images: the folder for images; None means a temporary folder.
        launch_params: the launch parameters of the kernel.

    Raises:
        CliError: there is no code, the code cannot be read or has another language than the kernel
            type, or the kernel cannot pass arguments.
        OSError: the file cannot be read.
        KernelProtoError: the kernel cannot be started, or died.
    """
    try:
        script = read_script(file, arguments, code)
    except FileNotFoundError:
        if file is not None and file.lower() in launch_names(anyio.run(find_kernel_types)):
            raise CliError(
                f"{file} is a kernel type, not a file; use `kernelproto run -k {file}`"
            ) from None
        raise
    if kernel_type is None:
        language = other_language(script.file)
        if language is not None:
            raise CliError(
                f"{file} seems to be {language} code; name its kernel type with -k "
                "(`kernelproto list` shows all)"
            )
        kernel_type = OWN_KERNEL
    return anyio.run(_run, kernel_type, script, OutputPrinter(images), launch_params)


def print_plan(kernel_type: str | None, launch_params: Mapping[str, object]) -> int:
    """Print how a kernel of this type would be launched, as JSON; start nothing."""
    plan_launch = partial(KernelFinder.from_entrypoints().plan, launch_params=launch_params)
    plan = anyio.run(plan_launch, kernel_type or OWN_KERNEL)
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
    kernel_type: str, script: Script, printer: OutputPrinter, launch_params: Mapping[str, object]
) -> int:
    # Elsewhere a thread waits: terminals are not descriptors that an event loop can wait for.
    ask = LineReader(code_from_stdin=script.from_stdin).answer if os.name == "posix" else None
    kernel_running = run_kernel(kernel_type, launch_params=launch_params)
    async with receive_signals() as signals, kernel_running as kernel:
        with signals.interrupting(kernel.interrupt):
            await _set_up(kernel, kernel_type, script)
            # The history is for code that a user typed.
            execution = kernel.execute(
                script.code, on_input=ask or ask_on_terminal, store_history=False
            )
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


async def _set_up(kernel: Kernel, kernel_type: str, script: Script) -> None:
    """Let Python code see the file and the arguments."""
    language = "" if kernel.info is None else kernel.info.language_info.name
    if language.lower() == "python":
        await kernel.execute(script.setup, silent=True)
    elif len(script.argv) > 1:
        other = language or "another language"
        raise CliError(f"only Python code can be given arguments; {kernel_type} runs {other}")
