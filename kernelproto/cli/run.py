"""``kernelproto run``: code in a kernel of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from kernelproto.cli.errors import FAILED, INTERRUPTED, KILLED, CliError
from kernelproto.cli.outputs import OutputPrinter
from kernelproto.cli.questions import LineReader
from kernelproto.cli.signals import receive_signals
from kernelproto.run import run_kernel
from kernelproto.terminal import ask_on_terminal


def read_code(file: str | None, code: str | None) -> str:
    """Return the code that the command line names.

    Args:
        file: the path of a file, "-" for standard input.
        code: the code itself.

    Raises:
        CliError: there is none, or two, or it is no text.
        OSError: the file cannot be read.
    """
    if (file is None) == (code is None):
        raise CliError("name what to run: either a FILE, or - for standard input, or -c CODE")
    if file is None:
        return code or ""
    if file.endswith(".ipynb"):
        raise CliError(f"{file} is a notebook: kernelproto notebook {file}")
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CliError(f"{file}: not UTF-8, at byte {error.start}") from None


def run_code(kernel_type: str, code: str, *, images: Path | None, code_from_stdin: bool) -> int:
    """Run code in a new kernel and return the exit status: 1 when it fails.

    Args:
        kernel_type: the kernel type.
        code: the code, in the kernel's language.
        images: where images are saved; None means a temporary folder.
        code_from_stdin: whether standard input was the code, so that answers are not there.
    """
    return anyio.run(_run, kernel_type, code, OutputPrinter(images), code_from_stdin)


async def _run(kernel_type: str, code: str, printer: OutputPrinter, code_from_stdin: bool) -> int:
    # Where terminals are no descriptors to wait for, a thread waits.
    ask = LineReader(code_from_stdin=code_from_stdin).answer if os.name == "posix" else None
    async with receive_signals() as signals, run_kernel(kernel_type) as kernel:
        with signals.interrupting(kernel.interrupt):
            execution = kernel.execute(code, on_input=ask or ask_on_terminal)
            async for output in execution:
                printer.print(output)
            result = await execution
        if result.status == "ok":
            return 0
        return INTERRUPTED if signals.interrupts else FAILED
    return KILLED + (signals.ended_by or 0)
