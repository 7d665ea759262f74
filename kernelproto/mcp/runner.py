"""Runs code in a conversation and returns the content of the result."""

from __future__ import annotations

import base64
import math
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
import msgspec
from anyio import to_thread

from kernelproto.client.execution import Execution
from kernelproto.client.result import ExecutionResult
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import (
    ExecutionTimeout,
    KernelDied,
    KernelProtoError,
    KernelRestarted,
)
from kernelproto.extras import importing
from kernelproto.mcp.conversations import Conversation, Conversations
from kernelproto.mcp.limits import Refused
from kernelproto.mcp.names import file_uri
from kernelproto.mcp.rendering import SHOWN_IMAGES, Media, Rendered, cut, plain_text, render
from kernelproto.wire.content import ErrorOutput, MimeBundle, Stream

with importing("mcp"):
    from mcp.types import (
        CallToolResult,
        ContentBlock,
        EmbeddedResource,
        ImageContent,
        TextContent,
        TextResourceContents,
    )

Report: TypeAlias = Callable[[float, str], Awaitable[None]]

PROGRESS_SECONDS = 3.0
_PROGRESS_CHARACTERS = 200

_OUTPUTS = "outputs"


class CodeRunner:
    """Runs code in the kernels of conversations.

    Args:
        conversations: the conversations.
        progress_seconds: the time between two reports about code that runs.
    """

    def __init__(
        self, conversations: Conversations, *, progress_seconds: float = PROGRESS_SECONDS
    ) -> None:
        self._conversations = conversations
        self._limits = conversations.limits
        self._progress_seconds = progress_seconds

    async def run(
        self, conversation: str, kernel_type: str, code: str, *, seconds: float, report: Report
    ) -> CallToolResult:
        """Run code and return the outputs.

        The result is an error unless the code ran to the end. If the caller is cancelled, the code
        is interrupted.

        Args:
            conversation: the name of the conversation, which begins with the first call.
            kernel_type: the type of the kernel.
            code: the code.
            seconds: how long the code may run.
            report: called every few seconds with the seconds since the call and a message.

        Raises:
            Refused: the code was not run.
        """
        progress = _Progress()
        async with (
            background_tasks() as tasks,
            self._conversations.open(conversation, make=True) as opened,
        ):
            tasks.start_soon(progress.report, report, self._progress_seconds)
            async with self._conversations.turn(opened):
                resets = opened.resets
                failure = await self._execute(opened, kernel_type, code, seconds, progress)
                if failure is not None and opened.resets > resets:
                    failure = "the conversation was reset while this code ran"
                return await self._result(opened, progress.execution, failure)

    async def _execute(
        self,
        conversation: Conversation,
        kernel_type: str,
        code: str,
        seconds: float,
        progress: _Progress,
    ) -> str | None:
        """Run code; return the reason for an early end, "" for an error in the code."""
        progress.message = "starting the kernel"
        try:
            kernel = await self._conversations.kernel(conversation, kernel_type)
            execution = progress.execution = conversation.running = kernel.execute(
                code, timeout=seconds, on_timeout="restart", interrupt_on_cancel=True
            )
            progress.message = "the code runs"
            conversation.executions += 1
            flooded = False
            async for output in execution:
                progress.note(output)
                if not flooded and progress.bytes > self._limits.output_bytes:
                    flooded = True
                    await execution.interrupt()
            result = await execution
        except KernelProtoError as error:
            told = isinstance(error, KernelDied) or getattr(error, "restarted", False)
            self._conversations.note_loss(conversation, kernel_type, told=told)
            return _explain(error)
        finally:
            conversation.running = None
            sent = progress.execution
            # This call was cancelled, or cannot read the outputs.
            if sent is not None and sent.state in ("queued", "running"):
                conversation.seat(kernel_type).unfinished = sent
        self._conversations.note_loss(conversation, kernel_type, told=False)
        if result.status == "ok":
            return None
        if flooded:
            limit = self._limits.output_bytes
            return (
                f"the code was interrupted because its outputs exceed {limit:,} bytes; the "
                "variables are kept. Write large outputs to a file"
            )
        if result.error is None or any(
            isinstance(output, ErrorOutput) for output in result.outputs
        ):
            return ""  # the outputs have the traceback
        return f"{result.error.ename}: {result.error.evalue}"

    async def _result(
        self, conversation: Conversation, execution: Execution | None, failure: str | None
    ) -> CallToolResult:
        rendered = Rendered("", [])
        if execution is not None:
            outputs = execution.outputs
            rendered = await to_thread.run_sync(render, outputs)
        blocks: list[ContentBlock] = []
        texts = [f"[note: {note}]" for note in conversation.take_notes()]
        texts.append(await self._bounded(conversation, rendered.text))
        for number, media in enumerate(rendered.media, 1):
            shown, notes = await self._shown(conversation, media, number, blocks)
            blocks += shown
            texts += notes
        if failure:
            texts.append(plain_text(cut(failure, self._limits.text).head))
        text = "\n".join(text for text in texts if text) or "[no output]"
        return CallToolResult(
            content=[TextContent(type="text", text=text), *blocks], is_error=failure is not None
        )

    async def _bounded(self, conversation: Conversation, text: str) -> str:
        """Return the text; of a long text its beginning and end, and a note how to get the rest."""
        head, tail, omitted = cut(text, self._limits.text)
        if not omitted:
            return text
        data = await to_thread.run_sync(text.encode)
        name, fault = await self._save(conversation, "text.txt", data)
        if fault is not None:
            rest = f"The whole output was not saved: {fault}."
        else:
            rest = (
                f"The whole output is the file {name}: read it with code, or with "
                f'download(conversation="{conversation.name}", name="{name}", '
                f"offset={len(head.encode())})."
            )
        note = f"[... {omitted:,} of {len(text):,} characters are left out here. {rest}]"
        return f"{head}\n{note}\n{tail}"

    async def _shown(
        self, conversation: Conversation, media: Media, number: int, blocks: list[ContentBlock]
    ) -> tuple[list[ContentBlock], list[str]]:
        """Return the blocks for an image or HTML, and the text about one that is saved instead."""
        limits = self._limits
        images = sum(isinstance(block, ImageContent) for block in blocks)
        room = limits.media_bytes - sum(map(_encoded_size, blocks))
        if (
            media.mime_type in SHOWN_IMAGES
            and images < limits.images
            and len(media.data) <= limits.image_bytes
            and _encoded_size(image := _image(media)) <= room
        ):
            return [image], []
        name, fault = await self._save(conversation, f"{number}{media.suffix}", media.data)
        if fault is not None:
            return [], [f"[output {number} ({media.mime_type}) was not saved: {fault}]"]
        if media.mime_type == "text/html" and len(media.data) <= limits.html:
            resource = TextResourceContents(
                uri=file_uri(conversation.name, name),
                mime_type=media.mime_type,
                text=media.data.decode(),
            )
            html = EmbeddedResource(type="resource", resource=resource)
            if _encoded_size(html) <= room:
                return [html], []
        return [], [f"[output {number} ({media.mime_type}) is the file {name}]"]

    async def _save(
        self, conversation: Conversation, suffix: str, data: bytes
    ) -> tuple[str, str | None]:
        """Save an output as a file; return the name, and the reason if the output was not saved."""
        folders = self._conversations.folders
        name = f"{_OUTPUTS}/{conversation.executions}-{suffix}"
        try:
            while len(conversation.saved) >= self._limits.saved_outputs:
                oldest = conversation.saved.pop(0)
                await to_thread.run_sync(folders.remove, conversation.name, oldest)
            await to_thread.run_sync(folders.write, conversation.name, name, data)
        except Refused as refusal:
            return name, str(refusal)
        conversation.saved.append(name)
        return name, None


class _Progress:
    """The progress of a call, in words.

    Attributes:
        execution: the execution; None before the kernel is ready.
        message: the state of the call.
        bytes: the size of the outputs so far, about.
    """

    def __init__(self) -> None:
        self.execution: Execution | None = None
        self.message = "waiting for earlier calls of the conversation"
        self.bytes = 0
        self._outputs = 0
        self._last = ""

    def note(self, output: object) -> None:
        """Count an output."""
        self._outputs += 1
        match output:
            case Stream(text=text):
                self.bytes += len(text)
                if not text.isspace():
                    self._last = text[-2 * _PROGRESS_CHARACTERS :]
            case MimeBundle(data=data):
                self.bytes += sum(len(value) for value in data.values() if isinstance(value, str))
            case _:
                pass

    async def report(self, report: Report, seconds: float) -> None:
        """Report the progress again and again."""
        start = anyio.current_time()
        while True:
            await anyio.sleep(seconds)
            elapsed = math.ceil(anyio.current_time() - start)
            await report(elapsed, f"{elapsed} s: {self._describe()}")

    def _describe(self) -> str:
        if not self._outputs:
            return self.message
        last = plain_text(self._last).strip().rpartition("\n")[2][-_PROGRESS_CHARACTERS:]
        return f"{self.message}, {self._outputs} outputs so far" + (f": {last}" if last else "")


def _image(media: Media) -> ImageContent:
    data = base64.b64encode(media.data).decode()
    return ImageContent(type="image", data=data, mime_type=media.mime_type)


def _encoded_size(block: ContentBlock) -> int:
    """Return the size of an image or HTML in the JSON of a result."""
    match block:
        case ImageContent(data=data):
            return len(data)
        case EmbeddedResource(resource=TextResourceContents(text=text)):
            return len(msgspec.json.encode(text))
        case _:
            return 0


def _explain(error: KernelProtoError) -> str:
    """Return the reason for an early end of code, and whether the variables are kept."""
    match error:
        case ExecutionTimeout(restarted=True):
            return f"{error}: all variables are lost, the files are kept"
        case ExecutionTimeout(result=ExecutionResult(status="unknown")):
            return f"{error}. The variables may be lost, the files are kept"
        case ExecutionTimeout():
            return f"{error}. The variables are kept. A longer timeout may help"
        case KernelRestarted():
            return f"{error}. All variables are lost, the files are kept"
        case KernelDied():
            return f"{error}. All variables are lost, the files are kept; run_code starts a kernel"
        case _:
            return f"{type(error).__name__}: {error}"
