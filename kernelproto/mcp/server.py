"""The MCP server: tools and resources over the conversations.

A request that the server cannot fulfil gives a result with ``isError``, which the model reads and
can act on: invalid arguments, code that raised an error or exceeded the timeout, a file that does
not exist. Only requests that no model makes give an error of the protocol: an unknown tool, and a
resource that cannot be read, for which the protocol has no other way.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
from anyio import to_thread
from msgspec import UNSET

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import KernelProtoError
from kernelproto.extras import importing
from kernelproto.mcp.conversations import Conversations
from kernelproto.mcp.kernel_types import KernelTypes
from kernelproto.mcp.limits import Refused
from kernelproto.mcp.names import URI_TEMPLATE, file_uri, parse_uri
from kernelproto.mcp.rendering import SHOWN_IMAGES, decode_part
from kernelproto.mcp.runner import PROGRESS_SECONDS, CodeRunner
from kernelproto.mcp.tools import (
    INSTRUCTIONS,
    Download,
    Interrupt,
    ListFiles,
    Reset,
    RunCode,
    Upload,
    describe_tools,
    read_arguments,
)

with importing("mcp"):
    from mcp.server.context import ServerRequestContext
    from mcp.server.lowlevel import Server
    from mcp.shared.exceptions import MCPError
    from mcp.types import (
        INVALID_PARAMS,
        BlobResourceContents,
        CallToolRequestParams,
        CallToolResult,
        ContentBlock,
        EmbeddedResource,
        ImageContent,
        ListResourcesResult,
        ListResourceTemplatesResult,
        ListToolsResult,
        PaginatedRequestParams,
        ReadResourceRequestParams,
        ReadResourceResult,
        Resource,
        ResourceTemplate,
        TextContent,
        TextResourceContents,
    )

_Context = ServerRequestContext[Any, Any]
# Returns when a call must end, with the reason.
UntilEnd: TypeAlias = Callable[[_Context], Awaitable[str]]
_Tool = Callable[[_Context, dict[str, Any] | None], Awaitable[CallToolResult]]

# A list has at most so many files, of one conversation or of all.
_MOST_LISTED = 500


class KernelServer:
    """Handles the requests of MCP clients.

    Args:
        conversations: the conversations.
        kernel_types: the kernel types that the model may choose.
        version: the version of the server.
        progress_seconds: the time between two reports about code that runs.
        until_end: returns when a call must end; None if the transport cancels calls.
    """

    def __init__(
        self,
        conversations: Conversations,
        kernel_types: KernelTypes,
        *,
        version: str,
        progress_seconds: float = PROGRESS_SECONDS,
        until_end: UntilEnd | None = None,
    ) -> None:
        self._version = version
        self._until_end = until_end
        self._conversations = conversations
        self._kernel_types = kernel_types
        self._limits = conversations.limits
        self._runner = CodeRunner(conversations, progress_seconds=progress_seconds)
        self._descriptions = describe_tools(kernel_types, self._limits)
        self._tools: dict[str, _Tool] = {
            "run_code": self._run_code,
            "interrupt": self._interrupt,
            "reset": self._reset,
            "upload": self._upload,
            "download": self._download,
            "list_files": self._list_files,
        }

    def mcp_server(self) -> Server[Any]:
        """Return the server of the package ``mcp`` that calls this one."""
        return Server(
            "kernelproto",
            version=self._version,
            instructions=INSTRUCTIONS,
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
            on_list_resources=self.list_resources,
            on_list_resource_templates=self.list_resource_templates,
            on_read_resource=self.read_resource,
        )

    async def list_tools(
        self, context: _Context, params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        """Return the descriptions of the tools."""
        return ListToolsResult(tools=self._descriptions)

    async def call_tool(self, context: _Context, params: CallToolRequestParams) -> CallToolResult:
        """Call a tool; a refusal or the failure of a kernel is a result marked as an error.

        Raises:
            MCPError: there is no such tool.
        """
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(code=INVALID_PARAMS, message=f"unknown tool: {params.name[:80]}")
        try:
            if self._until_end is None:
                return await tool(context, params.arguments)
            return await self._call_until_end(tool, context, params.arguments, self._until_end)
        except (Refused, KernelProtoError) as error:
            return CallToolResult(content=[_text(str(error))], is_error=True)

    async def _call_until_end(
        self, tool: _Tool, context: _Context, arguments: dict[str, Any] | None, until_end: UntilEnd
    ) -> CallToolResult:
        reason = ""
        scope = anyio.CancelScope()

        async def end() -> None:
            nonlocal reason
            reason = await until_end(context)
            scope.cancel()

        async with background_tasks() as tasks:
            tasks.start_soon(end)
            with scope:
                return await tool(context, arguments)
        raise Refused(reason)

    async def list_resources(
        self, context: _Context, params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        """Return the files of all conversations, up to a limit."""
        resources: list[Resource] = []
        for name in self._conversations.names:
            if len(resources) >= _MOST_LISTED:
                break
            try:
                files, _ = await to_thread.run_sync(self._conversations.folders.files, name)
            except Refused:
                continue  # the conversation has ended meanwhile
            resources += [
                Resource(
                    uri=file_uri(name, file.name),
                    name=f"{name}/{file.name}",
                    size=file.size,
                    mime_type=_mime_type(file.name),
                )
                for file in files
            ]
        return ListResourcesResult(resources=resources[:_MOST_LISTED])

    async def list_resource_templates(
        self, context: _Context, params: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        """Return the form of the URIs of files."""
        template = ResourceTemplate(
            uri_template=URI_TEMPLATE, name="file", description="A file of a conversation."
        )
        return ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(
        self, context: _Context, params: ReadResourceRequestParams
    ) -> ReadResourceResult:
        """Return a whole file.

        Raises:
            MCPError: the file does not exist, cannot be read or is too long.
        """
        uri = str(params.uri)
        try:
            conversation, name = parse_uri(uri)
            limit = self._limits.resource_bytes
            data, size = await self._read(conversation, name, 0, limit)
            if size > len(data):
                raise Refused(
                    f"{name!r} has {size:,} bytes, more than {limit:,}: use the tool download with "
                    "an offset"
                )
        except Refused as refusal:
            raise MCPError(
                code=INVALID_PARAMS, message=str(refusal), data={"uri": uri[:2000]}
            ) from None
        contents = await to_thread.run_sync(_contents, uri, name, data)
        return ReadResourceResult(contents=[contents])

    async def _run_code(self, context: _Context, given: dict[str, Any] | None) -> CallToolResult:
        arguments = read_arguments(given, RunCode)
        timeout = self._limits.timeout if arguments.timeout is UNSET else arguments.timeout
        if not 0 < timeout <= self._limits.max_timeout:
            raise Refused(
                f"timeout must be more than 0 and at most {self._limits.max_timeout:g} s, not "
                f"{timeout:g} s"
            )
        language = arguments.language
        chosen = self._kernel_types.choose(
            self._kernel_types.default if language is UNSET else language
        )

        async def report(seconds: float, message: str) -> None:
            await context.session.report_progress(seconds, None, message)

        return await self._runner.run(
            arguments.conversation, chosen, arguments.code, seconds=timeout, report=report
        )

    async def _interrupt(self, context: _Context, given: dict[str, Any] | None) -> CallToolResult:
        arguments = read_arguments(given, Interrupt)
        async with self._conversations.open(arguments.conversation) as conversation:
            interrupted = await self._conversations.interrupt(conversation)
        return _success("The code is interrupted." if interrupted else "No code runs.")

    async def _reset(self, context: _Context, given: dict[str, Any] | None) -> CallToolResult:
        arguments = read_arguments(given, Reset)
        async with self._conversations.open(arguments.conversation) as conversation:
            await self._conversations.reset(conversation, files=arguments.files)
        lost = "variables and files" if arguments.files else "variables"
        return _success(f"The {lost} of conversation {arguments.conversation} are deleted.")

    async def _upload(self, context: _Context, given: dict[str, Any] | None) -> CallToolResult:
        arguments = read_arguments(given, Upload)
        data = await to_thread.run_sync(_decode, arguments)
        async with self._conversations.open(arguments.conversation, make=True):
            await to_thread.run_sync(
                self._conversations.folders.write, arguments.conversation, arguments.name, data
            )
        return _success(f"Wrote {len(data):,} bytes to {arguments.name}.")

    async def _download(self, context: _Context, given: dict[str, Any] | None) -> CallToolResult:
        arguments = read_arguments(given, Download)
        length = self._limits.read_bytes if arguments.length is UNSET else arguments.length
        if not 0 < length <= self._limits.read_bytes:
            raise Refused(f"length must be 1 to {self._limits.read_bytes} bytes, not {length}")
        if arguments.length is UNSET:  # text is for a model, not for programs
            length = await self._readable_length(arguments, length)
        data, size = await self._read(
            arguments.conversation, arguments.name, arguments.offset, length
        )
        return _download_result(arguments, data, size)

    async def _readable_length(self, arguments: Download, length: int) -> int:
        """Return a length that suits a model: text has a lower limit than other data."""
        data, size = await self._read(
            arguments.conversation, arguments.name, arguments.offset, self._limits.text
        )
        text = decode_part(data, at_end=arguments.offset + len(data) >= size)
        return length if text is None else self._limits.text

    async def _list_files(self, context: _Context, given: dict[str, Any] | None) -> CallToolResult:
        arguments = read_arguments(given, ListFiles)
        async with self._conversations.open(arguments.conversation):
            files, more = await to_thread.run_sync(
                self._conversations.folders.files, arguments.conversation
            )
        lines = [f"{file.size:>12,}  {file.name}" for file in files[:_MOST_LISTED]]
        if more or len(files) > _MOST_LISTED:
            lines.append(f"[only {len(lines)} files are listed: list others with code]")
        return _success("\n".join(lines) or "[no files]")

    async def _read(
        self, conversation: str, name: str, offset: int, length: int
    ) -> tuple[bytes, int]:
        folders = self._conversations.folders
        async with self._conversations.open(conversation):
            return await to_thread.run_sync(
                lambda: folders.read(conversation, name, offset=offset, length=length)
            )


def _decode(arguments: Upload) -> bytes:
    if arguments.encoding == "text":
        try:
            return arguments.content.encode()
        except UnicodeEncodeError:
            raise Refused("content has half a character: a lone surrogate") from None
    try:
        return base64.b64decode("".join(arguments.content.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused('content is not base64: give text with encoding="text"') from None


def _download_result(arguments: Download, data: bytes, size: int) -> CallToolResult:
    """Return a part of a file, and a note unless that is the whole file."""
    begin = arguments.offset
    at_end = begin + len(data) >= size
    text = decode_part(data, at_end=at_end)
    mime_type = _mime_type(arguments.name)
    if text is not None:
        data = text.encode()  # without a character that is cut off
        block: ContentBlock = _text(text)
    elif mime_type in SHOWN_IMAGES and len(data) == size:
        encoded = base64.b64encode(data).decode()
        block = ImageContent(type="image", data=encoded, mime_type=mime_type)
    else:
        contents = BlobResourceContents(
            uri=file_uri(arguments.conversation, arguments.name),
            mime_type=mime_type,
            blob=base64.b64encode(data).decode(),
        )
        block = EmbeddedResource(type="resource", resource=contents)
    end = begin + len(data)
    if len(data) == size:
        return CallToolResult(content=[block])
    rest = f"; the next part has offset={end}" if end < size else ""
    note = f"[bytes {begin:,} to {end:,} of {size:,} of {arguments.name}{rest}]"
    return CallToolResult(content=[block, _text(note)])


def _contents(uri: str, name: str, data: bytes) -> TextResourceContents | BlobResourceContents:
    mime_type = _mime_type(name)
    text = decode_part(data, at_end=True)
    if text is not None:
        return TextResourceContents(uri=uri, mime_type=mime_type or "text/plain", text=text)
    return BlobResourceContents(
        uri=uri,
        mime_type=mime_type or "application/octet-stream",
        blob=base64.b64encode(data).decode(),
    )


def _mime_type(name: str) -> str | None:
    return mimetypes.guess_type(name)[0]


def _success(text: str) -> CallToolResult:
    return CallToolResult(content=[_text(text)])


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)
