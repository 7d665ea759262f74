"""``kernelproto console``: an interactive prompt for a kernel."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from kernelproto.cli.errors import KILLED, CliError, describe, print_error
from kernelproto.cli.outputs import OutputPrinter
from kernelproto.cli.questions import END_OF_INPUT
from kernelproto.cli.screen import RED, styled
from kernelproto.cli.signals import Signals, receive_signals
from kernelproto.client.client import KernelClient
from kernelproto.client.heartbeat import until_silent
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import (
    KernelDied,
    OutputOverflow,
    ProtocolError,
    UnsupportedRequest,
)
from kernelproto.run import connect_kernel, run_kernel
from kernelproto.supervise.kernel import Kernel
from kernelproto.wire.content import ExecuteResult, InputRequest, LanguageInfo

# The death of a kernel started by another program shows only in its heartbeat.
_SILENT_SECONDS = 30.0

_INTERRUPTS = 2
_INSPECTION_SECONDS = 10.0

_INSPECTION = re.compile(r"\s*([\w.]*\w)\s*(\?{1,2})\s*")


def open_console(kernel_type: str, existing: str | None) -> int:
    """Read code from the terminal and run it, until the user leaves; return the exit status.

    Args:
        kernel_type: the type of a new kernel, which ends with the console.
        existing: the id or connection file of a running kernel to use instead; it keeps running.

    Raises:
        CliError: standard input or output is not a terminal.
        KernelProtoError: the kernel cannot be started or reached.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CliError("the console needs a terminal; use `kernelproto run` without one")
    return anyio.run(_open, kernel_type, existing)


async def _open(kernel_type: str, existing: str | None) -> int:
    opening: AbstractAsyncContextManager[Kernel | KernelClient] = (
        run_kernel(kernel_type) if existing is None else connect_kernel(existing)
    )
    async with (
        receive_signals(interrupts=_INTERRUPTS, idle_ends=False) as signals,
        opening as kernel,
        background_tasks() as tasks,
    ):
        if isinstance(kernel, KernelClient):
            tasks.start_soon(_watch, kernel)
        await _Console(kernel, signals).talk()
        if isinstance(kernel, KernelClient):
            print("The kernel keeps running.")
    return 0 if signals.ended_by is None else KILLED + signals.ended_by


async def _watch(client: KernelClient) -> None:
    """Fail the client's calls when its kernel no longer answers heartbeats."""
    await until_silent(client, _SILENT_SECONDS)
    client.fail(KernelDied("the kernel no longer answers heartbeats"))


class _Console:
    """The dialogue of the prompt and the kernel."""

    def __init__(self, kernel: Kernel | KernelClient, signals: Signals) -> None:
        self._kernel = kernel
        self._signals = signals
        self._printer = OutputPrinter()
        self._number: int | None = 1 if isinstance(kernel, Kernel) else None
        self._done = False
        self._next_code = ""

    async def talk(self) -> None:
        """Read and run code until Ctrl-D, or until the code calls ``exit``."""
        from kernelproto.cli.prompt import Prompt, earlier_code  # which loads prompt_toolkit

        info = self._kernel.info
        if info is not None:
            print(info.banner.rstrip())
        print("Ctrl-C interrupts the code, Ctrl-D leaves, name? shows help for a name.\n")
        language = LanguageInfo() if info is None else info.language_info
        prompt = Prompt(self._kernel, language, await earlier_code(self._kernel))
        while not self._done:
            default, self._next_code = self._next_code, ""
            try:
                code = await prompt.read(self._number, default)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if code.strip():
                await self._handle(code)

    async def _handle(self, code: str) -> None:
        """Run code or show help; if the kernel dies, restart it."""
        try:
            if (inspection := _INSPECTION.fullmatch(code)) is not None:
                await self._inspect(inspection[1], len(inspection[2]) - 1)
            else:
                await self._run(code)
        except KernelDied as error:
            if not isinstance(self._kernel, Kernel):
                raise
            print_error(f"{describe(error)}; restarting it, all variables are lost")
            await self._kernel.restart()
            self._number = 1
        except (OutputOverflow, ProtocolError, UnsupportedRequest) as error:
            self._printer.end_line()
            print_error(describe(error))

    async def _run(self, code: str) -> None:
        with self._signals.interrupting(self._interrupt):
            execution = self._kernel.execute(code, on_input=self._ask)
            async for output in execution:
                if isinstance(output, ExecuteResult):
                    self._label(output)
                self._printer.print(output)
            result = await execution
        self._printer.end_line()
        for entry in result.payload:
            self._handle_payload(entry)
        if result.execution_count is not None:
            self._number = result.execution_count + 1
        print()

    def _label(self, output: ExecuteResult) -> None:
        number = "" if output.execution_count is None else f"[{output.execution_count}]"
        self._printer.end_line()
        lines = str(output.data.get("text/plain", "")).count("\n")
        print(styled(f"Out{number}:", RED, sys.stdout), end="\n" if lines else " ")

    def _handle_payload(self, entry: Mapping[str, Any]) -> None:
        """Perform an action that the kernel requests from the frontend."""
        match entry:
            case {"source": "page", "data": {"text/plain": str(text)}}:
                print(text)
            case {"source": "set_next_input", "text": str(text)}:
                self._next_code = text
            case {"source": "ask_exit"}:
                self._done = True
            case _:
                pass

    async def _inspect(self, name: str, detail_level: int) -> None:
        with anyio.move_on_after(_INSPECTION_SECONDS) as waiting:
            reply = await self._kernel.inspect(name, detail_level=detail_level)
            text = reply.data.get("text/plain")
            print(text if reply.found and text else f"The kernel has no help for {name!r}.")
        if waiting.cancelled_caught:
            print_error(f"the kernel did not reply within {_INSPECTION_SECONDS:g} s")
        print()

    async def _interrupt(self) -> None:
        if self._signals.interrupts == _INTERRUPTS:
            print_error("the code is still running; Ctrl-C again ends the console")
        await self._kernel.interrupt()

    async def _ask(self, question: InputRequest) -> str:
        from kernelproto.cli.prompt import ask

        self._printer.end_line()
        try:
            return await ask(question)
        except EOFError:
            return END_OF_INPUT
        except KeyboardInterrupt:  # at the prompt Ctrl-C is a key, not a signal
            await self._kernel.interrupt()
            await anyio.sleep_forever()  # until the interrupted execution cancels the question
            raise
