"""``kernelproto console``: code is typed, run, and answered for."""

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

# Of a kernel that another program has started, only its heartbeat tells that it is there.
_HEARTBEAT_EVERY = 5.0
_HEARTBEATS_MISSED = 3

_INTERRUPTS = 2
_INSPECTION_SECONDS = 10.0

_INSPECTION = re.compile(r"\s*([\w.]*\w)\s*(\?{1,2})\s*")


def open_console(kernel_type: str, existing: str | None) -> int:
    """Read code at the terminal and run it, until the user has had enough.

    Args:
        kernel_type: the kernel type of a new kernel, which ends with the console.
        existing: the connection file of a running kernel instead, which goes on afterwards.

    Raises:
        CliError: there is no terminal.
        KernelProtoError: there is no kernel.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CliError("the console needs a terminal; `kernelproto run` does without")
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
            print("The kernel goes on.")
    return 0 if signals.ended_by is None else KILLED + signals.ended_by


async def _watch(client: KernelClient) -> None:
    """Let nobody wait for a kernel that is not there any more."""
    missed = 0
    while missed < _HEARTBEATS_MISSED:
        await anyio.sleep(_HEARTBEAT_EVERY)
        missed += 1
        with anyio.move_on_after(_HEARTBEAT_EVERY):
            await client.heartbeat()
            missed = 0
    client.fail(KernelDied("the kernel does not answer heartbeats any more"))


class _Console:
    """What is typed and what comes of it."""

    def __init__(self, kernel: Kernel | KernelClient, signals: Signals) -> None:
        self._kernel = kernel
        self._signals = signals
        self._printer = OutputPrinter()
        self._number: int | None = 1 if isinstance(kernel, Kernel) else None
        self._over = False
        self._next_code = ""

    async def talk(self) -> None:
        """Read and run code until Ctrl-D, or until the kernel is told to exit."""
        from kernelproto.cli.prompt import Prompt, earlier_code  # which loads prompt_toolkit

        info = self._kernel.info
        if info is not None:
            print(info.banner.rstrip())
        print("Ctrl-D leaves, Ctrl-C interrupts, name? explains a name.\n")
        language = LanguageInfo() if info is None else info.language_info
        prompt = Prompt(self._kernel, language, await earlier_code(self._kernel))
        while not self._over:
            default, self._next_code = self._next_code, ""
            try:
                code = await prompt.read(self._number, default)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if code.strip():
                await self._survive(code)

    async def _survive(self, code: str) -> None:
        """Run code, and go on with a new kernel where it was the end of the old one."""
        try:
            if (inspection := _INSPECTION.fullmatch(code)) is not None:
                await self._inspect(inspection[1], len(inspection[2]) - 1)
            else:
                await self._run(code)
        except KernelDied as error:
            if not isinstance(self._kernel, Kernel):
                raise
            print_error(f"{describe(error)}; starting it again, with nothing in memory")
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
        for wish in result.payload:
            self._heed(wish)
        if result.execution_count is not None:
            self._number = result.execution_count + 1
        print()

    def _label(self, output: ExecuteResult) -> None:
        number = "" if output.execution_count is None else f"[{output.execution_count}]"
        self._printer.end_line()
        lines = str(output.data.get("text/plain", "")).count("\n")
        print(styled(f"Out{number}:", RED, sys.stdout), end="\n" if lines else " ")

    def _heed(self, wish: Mapping[str, Any]) -> None:
        """Do what the kernel asks the frontend for."""
        match wish:
            case {"source": "page", "data": {"text/plain": str(text)}}:
                print(text)
            case {"source": "set_next_input", "text": str(text)}:
                self._next_code = text
            case {"source": "ask_exit"}:
                self._over = True
            case _:
                pass

    async def _inspect(self, name: str, detail_level: int) -> None:
        with anyio.move_on_after(_INSPECTION_SECONDS) as waiting:
            reply = await self._kernel.inspect(name, detail_level=detail_level)
            text = reply.data.get("text/plain")
            print(text if reply.found and text else f"The kernel knows nothing of {name!r}.")
        if waiting.cancelled_caught:
            print_error(f"the kernel has said nothing within {_INSPECTION_SECONDS:g} s")
        print()

    async def _interrupt(self) -> None:
        if self._signals.interrupts == _INTERRUPTS:
            print_error("it still runs; Ctrl-C once more ends the console")
        await self._kernel.interrupt()

    async def _ask(self, question: InputRequest) -> str:
        from kernelproto.cli.prompt import ask

        self._printer.end_line()
        try:
            return await ask(question)
        except EOFError:
            return END_OF_INPUT
        except KeyboardInterrupt:  # a key, which is no signal while something is typed
            await self._kernel.interrupt()
            await anyio.sleep_forever()  # until the question is withdrawn
            raise
