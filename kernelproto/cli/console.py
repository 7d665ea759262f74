"""``kernelproto console``: an interactive prompt for a kernel."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio
import anyio.to_thread

from kernelproto.cli.errors import KILLED, CliError, describe, print_error
from kernelproto.cli.images import ImageProtocol, draw, find_protocol, missing_extra, terminal_size
from kernelproto.cli.inventory import find_process
from kernelproto.cli.outputs import OutputPrinter
from kernelproto.cli.questions import END_OF_INPUT
from kernelproto.cli.screen import RED, has_colours, styled
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
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.run import connect_kernel, run_kernel
from kernelproto.supervise.events import Died
from kernelproto.supervise.kernel import Kernel
from kernelproto.wire.content import ExecuteResult, InputRequest, LanguageInfo, Output

if TYPE_CHECKING:
    from kernelproto.cli.prompt import Prompt

InlineImages: TypeAlias = Literal["auto", "kitty", "iterm2", "sixel", "none"]

# The death of another program's kernel shows in the process, if it is on this machine, and in the
# heartbeat.
_LOOK_SECONDS = 0.5
_SILENT_SECONDS = 30.0

# The console ends when the kernel has died so often at the prompt without running code.
_IDLE_DEATHS = 3

_INTERRUPTS = 2
_INSPECTION_SECONDS = 10.0

_INSPECTION = re.compile(r"\s*([\w.]*\w)\s*(\?{1,2})\s*")


def open_console(kernel_type: str, existing: str | None, inline_images: InlineImages) -> int:
    """Read and run code from the terminal, until the user leaves; return the exit status.

    Args:
        kernel_type: the type of a new kernel, which ends with the console.
        existing: the id or connection file of a running kernel to use instead, which keeps running.
        inline_images: the protocol that shows images in the terminal; "auto" finds the protocol,
            and "none" saves images as files.

    Raises:
        CliError: standard input or output is not a terminal.
        KernelProtoError: the kernel cannot be started or reached.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CliError("the console needs a terminal; use `kernelproto run` without one")
    return anyio.run(_open, kernel_type, existing, _image_protocol(inline_images))


def _image_protocol(wanted: InlineImages) -> ImageProtocol | None:
    if wanted == "auto":
        return find_protocol(os.environ)
    return None if wanted == "none" else wanted


async def _open(kernel_type: str, existing: str | None, protocol: ImageProtocol | None) -> int:
    opening: AbstractAsyncContextManager[Kernel | KernelClient] = (
        run_kernel(kernel_type) if existing is None else connect_kernel(existing)
    )
    async with (
        receive_signals(interrupts=_INTERRUPTS) as signals,
        opening as kernel,
        background_tasks() as tasks,
    ):
        signals.idle_ends = False
        console = _Console(kernel, signals, protocol)
        if isinstance(kernel, Kernel):
            kernel.add_callback(console.note_death, Died)
        else:
            tasks.start_soon(_watch, kernel, console)
        await console.talk()
        if isinstance(kernel, KernelClient):
            print("The kernel keeps running.")
    return 0 if signals.ended_by is None else KILLED + signals.ended_by


async def _watch(client: KernelClient, console: _Console) -> None:
    """End the console when the kernel of another program has died."""
    process = await anyio.to_thread.run_sync(find_process, client.connection_info)
    async with anyio.create_task_group() as first:
        if process is not None:
            first.start_soon(_until_gone, process, first.cancel_scope)
        await until_silent(client, _SILENT_SECONDS)
        first.cancel_scope.cancel()
    gone = process is not None and process.is_gone
    reason = "has ended" if gone else "no longer answers heartbeats"
    error = KernelDied(f"the kernel {reason}; `kernelproto console` starts a new one")
    client.fail(error)
    console.end_prompt(error)


async def _until_gone(process: ProcessId, scope: anyio.CancelScope) -> None:
    while True:
        if process.is_gone:
            scope.cancel()
        await anyio.sleep(_LOOK_SECONDS)


class _Console:
    """The dialogue of the prompt and the kernel."""

    def __init__(
        self, kernel: Kernel | KernelClient, signals: Signals, protocol: ImageProtocol | None
    ) -> None:
        self._kernel = kernel
        self._signals = signals
        self._protocol: ImageProtocol | None = protocol
        self._printer = OutputPrinter(draw=None if protocol is None else self._draw)
        self._prompt: Prompt | None = None
        self._python = False
        self._number: int | None = 1 if isinstance(kernel, Kernel) else None
        self._idle_deaths = 0
        self._done = False
        self._next_code = ""

    async def talk(self) -> None:
        """Read and run code until Ctrl-D, or until the code calls ``exit``."""
        from kernelproto.cli.prompt import Prompt  # which loads prompt_toolkit

        info = self._kernel.info
        if info is not None:
            print(info.banner.rstrip())
        print("Ctrl-C interrupts the code, Ctrl-D leaves, name? shows help for a name.")
        if (advice := missing_extra(self._protocol)) is not None:
            print(advice)
        print()
        language = LanguageInfo() if info is None else info.language_info
        self._python = language.name == "python"
        self._prompt = prompt = Prompt(self._kernel, language)
        while not self._done:
            default, self._next_code = self._next_code, ""
            try:
                code = await prompt.read(self._number, default)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            except KernelDied as error:
                self._next_code = prompt.text
                self._idle_deaths += 1
                if self._idle_deaths == _IDLE_DEATHS:
                    raise
                await self._replace(error)
            else:
                if code.strip():
                    await self._handle(code)

    def note_death(self, event: Died) -> None:
        """Tell a user at the prompt at once; running code raises an error of its own."""
        self.end_prompt(KernelDied(f"the kernel died: {event}"))

    def end_prompt(self, error: KernelDied) -> None:
        """Let the prompt raise an error, if the user sees the prompt."""
        if self._prompt is not None:
            self._prompt.fail(error)

    async def _handle(self, code: str) -> None:
        """Run code or show help; restart a dead kernel."""
        try:
            if (inspection := _INSPECTION.fullmatch(code)) is not None:
                await self._inspect(inspection[1], len(inspection[2]) - 1)
            else:
                await self._run(code)
        except KernelDied as error:
            await self._replace(error)
        except (OutputOverflow, ProtocolError, UnsupportedRequest) as error:
            self._printer.end_line()
            print_error(describe(error))

    async def _replace(self, error: KernelDied) -> None:
        """Restart a dead kernel, if this program started the kernel."""
        if not isinstance(self._kernel, Kernel):
            raise error
        print_error(f"{describe(error)}; restarting it, all variables are lost")
        await self._kernel.restart()
        self._number = 1

    async def _run(self, code: str) -> None:
        self._idle_deaths = 0
        with self._signals.interrupting(self._interrupt):
            execution = self._kernel.execute(code, on_input=self._ask)
            async for output in execution:
                if isinstance(output, ExecuteResult):
                    self._label(output)
                if not self._print_value(output):
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

    def _print_value(self, output: Output) -> bool:
        """Print a result in colours; return False if that is not possible."""
        if not (self._python and isinstance(output, ExecuteResult) and has_colours(sys.stdout)):
            return False
        text = output.data.get("text/plain")
        if len(output.data) != 1 or not isinstance(text, str):
            return False
        from kernelproto.cli.highlight import print_value

        print_value(text)
        return True

    def _draw(self, image: bytes) -> str | None:
        return None if self._protocol is None else draw(self._protocol, image, terminal_size())

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
