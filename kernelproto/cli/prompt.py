"""The prompt of the console, with completion, history and indentation from the kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from typing import Any

import anyio
import msgspec
from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys
from prompt_toolkit.lexers import PygmentsLexer

from kernelproto.client.requests import Requests
from kernelproto.exceptions import KernelDied, KernelProtoError
from kernelproto.wire.content import CompleteReply, InputRequest, IsCompleteReply, LanguageInfo

# A kernel that is busy for another client answers late. Enter must not wait for that. Completion
# may take longer, because the user can continue typing.
_ANSWER_SECONDS = 2.0
_COMPLETION_SECONDS = 10.0

_HISTORY = 1000
_KINDS = "_jupyter_types_experimental"


class Prompt:
    """Reads code at a terminal.

    Args:
        kernel: completes code, decides whether code is complete, and has a history.
        language: the kernel's language, for syntax colours.
    """

    def __init__(self, kernel: Requests, language: LanguageInfo) -> None:
        self._session = PromptSession[str](
            history=_KernelHistory(kernel),
            auto_suggest=AutoSuggestFromHistory(),
            completer=_KernelCompleter(kernel),
            complete_while_typing=False,
            enable_history_search=True,
            enable_suspend=True,
            lexer=PygmentsLexer.from_filename(f"code{language.file_extension}"),
            multiline=True,
            prompt_continuation=_continuation,
            key_bindings=_Enter(kernel).bindings(),
        )

    async def read(self, number: int | None, default: str = "") -> str:
        """Return the next piece of code.

        Args:
            number: the execution count; None if unknown.
            default: initial text.

        Raises:
            EOFError: Ctrl-D was typed.
            KeyboardInterrupt: Ctrl-C was typed.
            KernelDied: fail() was called.
        """
        name = "In: " if number is None else f"In [{number}]: "
        # Another task handles signals.
        return await self._session.prompt_async(
            FormattedText([("ansigreen", name)]), default=default, handle_sigint=False
        )

    def fail(self, error: KernelDied) -> None:
        """Let a waiting read() raise an exception."""
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=error)

    @property
    def text(self) -> str:
        """The text at the prompt, typed before read() ended with an exception."""
        return self._session.default_buffer.text


async def ask(question: InputRequest) -> str:
    """Return the answer to an input_request.

    Raises:
        EOFError: Ctrl-D was typed.
        KeyboardInterrupt: Ctrl-C was typed.
    """
    session = PromptSession[str](reserve_space_for_menu=0, enable_suspend=True)
    return await session.prompt_async(
        question.prompt, is_password=question.password, handle_sigint=False
    )


async def earlier_code(kernel: Requests) -> list[str]:
    """Return the code in the kernel's history, oldest first."""
    with anyio.move_on_after(_ANSWER_SECONDS):
        try:
            entries = (await kernel.history("tail", n=_HISTORY)).history
        except KernelProtoError:  # a kernel without history
            return []
        return [code for _, _, code in entries if isinstance(code, str)]
    return []


class _KernelHistory(History):
    """The kernel's history, then the code that was typed.

    The history is requested when the prompt is shown first, and added when the kernel replies: a
    kernel that does not reply delays nothing.
    """

    def __init__(self, kernel: Requests) -> None:
        super().__init__()
        self._kernel = kernel
        self._newest_first: list[str] = []
        self._complete = False

    async def load(self) -> AsyncGenerator[str]:
        """Yield all code, newest first."""
        if not self._complete:
            earlier = await earlier_code(self._kernel)
            self._complete = True
            self._newest_first += reversed(earlier)
        for code in list(self._newest_first):
            yield code

    def get_strings(self) -> list[str]:
        """Return all code, oldest first."""
        return self._newest_first[::-1]

    def append_string(self, string: str) -> None:
        """Add code that was typed."""
        self._newest_first.insert(0, string)

    def load_history_strings(self) -> Iterable[str]:
        """Return nothing; load() has all."""
        return ()

    def store_string(self, string: str) -> None:
        """Do nothing; the kernel keeps the history."""


class _KernelCompleter(Completer):
    """Completes code with the kernel's completions."""

    def __init__(self, kernel: Requests) -> None:
        self._kernel = kernel

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        return ()  # all completions are asynchronous

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion]:
        position = document.cursor_position
        reply = await self._ask(document.text, position)
        kinds = _kinds(reply.metadata)
        for match in reply.matches:
            yield Completion(
                match,
                start_position=min(reply.cursor_start - position, 0),
                display_meta=kinds.get(match, ""),
            )

    async def _ask(self, code: str, position: int) -> CompleteReply:
        with anyio.move_on_after(_COMPLETION_SECONDS), suppress(KernelProtoError):
            return await self._kernel.complete(code, position)
        return CompleteReply()


class _Enter:
    """The Enter key: runs complete code, and begins a new line after incomplete code.

    Only the kernel knows which code is complete. Keys typed before the kernel's reply are held back
    and replayed afterwards: they may belong to the next line, or to the next piece of code.
    """

    def __init__(self, kernel: Requests) -> None:
        self._kernel = kernel
        self._asking = False
        self._held: list[KeyPress] = []

    def bindings(self) -> KeyBindings:
        """Return the key bindings."""
        bindings = KeyBindings()
        asking = Condition(lambda: self._asking)
        at_code = has_focus(DEFAULT_BUFFER)
        bindings.add(Keys.Any, filter=asking, eager=True)(self._hold)
        bindings.add("c-c", filter=asking, eager=True)(_cancel)
        bindings.add("enter", filter=at_code & ~asking)(self._enter)
        bindings.add("escape", "enter", filter=at_code & ~asking)(_new_line)
        return bindings

    def _hold(self, event: KeyPressEvent) -> None:
        self._held += event.key_sequence

    def _enter(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion:
            buffer.complete_state = None  # accept the completion only
        elif "\n" in buffer.text and buffer.document.text_after_cursor.strip():
            _new_line(event)
        else:
            self._asking = True  # now: the task begins later
            event.app.create_background_task(self._ask(event.app, buffer))

    async def _ask(self, app: Application[Any], buffer: Buffer) -> None:
        try:
            reply = await self._is_complete(buffer.text)
        finally:
            self._asking = False
            held, self._held = self._held, []
        if app.is_done:  # after Ctrl-C
            return
        app.key_processor.feed_multiple(held)
        if reply.status == "incomplete":
            buffer.cursor_position = len(buffer.text)
            buffer.newline(copy_margin=False)
            buffer.insert_text(reply.indent)
            app.key_processor.process_keys()
        else:
            buffer.validate_and_handle()  # unprocessed keys are typed at the next prompt

    async def _is_complete(self, code: str) -> IsCompleteReply:
        if not code.rpartition("\n")[2].strip():
            code += "\n"  # for IPython, a blank line that ends a cell magic has a newline
        if code.strip():
            with anyio.move_on_after(_ANSWER_SECONDS), suppress(KernelProtoError):
                return await self._kernel.is_complete(code)
        return IsCompleteReply()


def _cancel(event: KeyPressEvent) -> None:
    event.app.exit(exception=KeyboardInterrupt)


def _new_line(event: KeyPressEvent) -> None:
    event.current_buffer.newline()


def _continuation(width: int, line_number: int, is_soft_wrap: int) -> FormattedText:
    text = "" if is_soft_wrap else "...: "
    return FormattedText([("ansigreen", text.rjust(width))])


def _kinds(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the type of each completion, if the kernel sends types as ipykernel does."""
    try:
        described = msgspec.convert(metadata.get(_KINDS, []), list[dict[str, Any]])
    except msgspec.ValidationError:
        return {}
    return {str(entry.get("text")): str(entry.get("type") or "") for entry in described}
