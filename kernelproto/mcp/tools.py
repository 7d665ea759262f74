"""The tools that the model sees: their descriptions, and their arguments, checked by msgspec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kernelproto.extras import importing
from kernelproto.mcp.kernel_types import KernelTypes
from kernelproto.mcp.limits import Limits, Refused
from kernelproto.mcp.names import CONVERSATION

with importing("mcp"):
    from mcp.types import Tool, ToolAnnotations

ArgumentsT = TypeVar("ArgumentsT", bound="Arguments")

INSTRUCTIONS = (
    "Runs code in kernels. A conversation is a name that you choose: all calls with the same name "
    "share variables and files, and calls with different names share nothing. Use run_code for "
    "code, upload and download for files."
)


class Arguments(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The arguments of a tool; the docstring of a subclass describes the tool to the model."""

    conversation: Annotated[
        str,
        Meta(
            pattern=CONVERSATION,
            description="The name of the conversation: a-z, 0-9, _ and -, beginning with a letter. "
            "Use one name for all calls that need the same variables or files.",
        ),
    ] = "default"


FileName = Annotated[
    str,
    Meta(
        description="The name of a file in the conversation's folder, such as data.csv or a/b.png.",
        max_length=1000,
    ),
]


class RunCode(Arguments):
    """Run code and return its outputs.

    Variables, imports and files stay for the next calls of the same conversation. The code's
    working directory is the conversation's folder. The result has all printed text, the value of
    the last expression, tables and images. If the code raises an error, the result is marked as an
    error and ends with the traceback; variables stay. Code that exceeds the timeout is interrupted;
    the result says whether variables stay. Long text is cut in the middle; the whole text is then
    saved as a file, which the result names. The code cannot ask for input.
    """

    code: Annotated[str, Meta(description="The code to run, as in a notebook cell.")]
    timeout: Annotated[
        float | UnsetType, Meta(description="The seconds that the code may run.")
    ] = UNSET
    language: Annotated[
        str | UnsetType,
        Meta(
            description="The language of the code, or the name of a kernel type. Each one has its "
            "own variables; files are shared."
        ),
    ] = UNSET


class Interrupt(Arguments):
    """Interrupt the code that runs in a conversation, as Ctrl-C does.

    The interrupted run_code returns with an error. Variables and files stay.
    """


class Reset(Arguments):
    """End the kernels of a conversation, so that all variables are lost.

    Code that runs is ended. The next run_code starts a new kernel.
    """

    files: Annotated[
        bool, Meta(description="Whether to delete the conversation's files as well.")
    ] = False


class Upload(Arguments):
    """Write a file into the folder of a conversation, where code can open the file by name.

    Missing subfolders are made. A file of the same name is replaced.
    """

    name: FileName
    content: Annotated[str, Meta(description="The content of the file.")]
    encoding: Annotated[
        Literal["text", "base64"],
        Meta(description='"text" for text, which is written in UTF-8; "base64" for other data.'),
    ] = "text"


class Download(Arguments):
    """Return a file from the folder of a conversation, or a part of the file.

    Text is returned as text, an image as an image, other data in base64. If the file is longer than
    the part, the result says with which offset to go on.
    """

    name: FileName
    offset: Annotated[int, Meta(ge=0, description="The first byte to return, from 0.")] = 0
    length: Annotated[
        int | UnsetType, Meta(description="The largest number of bytes to return.")
    ] = UNSET


class ListFiles(Arguments):
    """List the files in the folder of a conversation, with their sizes in bytes."""


TOOLS: dict[str, type[Arguments]] = {
    "run_code": RunCode,
    "interrupt": Interrupt,
    "reset": Reset,
    "upload": Upload,
    "download": Download,
    "list_files": ListFiles,
}

_ANNOTATIONS = {
    "run_code": ToolAnnotations(title="Run code", destructive_hint=True, open_world_hint=True),
    "interrupt": ToolAnnotations(
        title="Interrupt code", destructive_hint=False, open_world_hint=False
    ),
    "reset": ToolAnnotations(
        title="Reset a conversation",
        destructive_hint=True,
        idempotent_hint=True,
        open_world_hint=False,
    ),
    "upload": ToolAnnotations(
        title="Upload a file", destructive_hint=True, idempotent_hint=True, open_world_hint=False
    ),
    "download": ToolAnnotations(
        title="Download a file", read_only_hint=True, open_world_hint=False
    ),
    "list_files": ToolAnnotations(title="List files", read_only_hint=True, open_world_hint=False),
}


def describe_tools(kernel_types: KernelTypes, limits: Limits) -> list[Tool]:
    """Return the descriptions of the tools, with the limits and kernel types of this server."""
    _, schemas = msgspec.json.schema_components(TOOLS.values(), ref_template="#/$defs/{name}")
    own: dict[str, dict[str, dict[str, Any]]] = {
        "run_code": {
            "timeout": {
                "exclusiveMinimum": 0,
                "maximum": limits.max_timeout,
                "default": limits.timeout,
            },
            "language": {"enum": kernel_types.choices, "default": kernel_types.default},
        },
        "download": {"length": {"minimum": 1, "default": limits.read_bytes}},
    }
    tools: list[Tool] = []
    for name, arguments in TOOLS.items():
        schema = {**schemas[arguments.__name__]}
        description = " ".join(schema.pop("description").split())
        del schema["title"]
        for field, limit in own.get(name, {}).items():
            schema["properties"][field].update(limit)
        tools.append(
            Tool(
                name=name,
                description=description,
                input_schema=schema,
                annotations=_ANNOTATIONS[name],
            )
        )
    return tools


def read_arguments(arguments: Mapping[str, object] | None, kind: type[ArgumentsT]) -> ArgumentsT:
    """Return the arguments of a call; numbers may be given as strings.

    Raises:
        Refused: an argument is missing, unknown or invalid.
    """
    try:
        return msgspec.convert(dict(arguments or {}), kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(f"invalid arguments: {error}") from None
