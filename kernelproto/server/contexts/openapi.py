"""The OpenAPI document of the contexts, made of the models and their docstrings."""

from __future__ import annotations

import inspect
import re
from typing import Any, TypeAlias

import msgspec

from kernelproto.remote import events, models
from kernelproto.server.contexts.files import MOST_FILE_BYTES
from kernelproto.server.contexts.runs import MOST_OPEN, REJOIN_SECONDS

Json: TypeAlias = dict[str, Any]

_MODELS = (
    models.ContextRequest,
    models.ContextModel,
    models.ExecuteRequest,
    models.InterruptRequest,
    models.FileList,
    models.ErrorModel,
)

# An argument in a docstring: a name, and a description of one line or several.
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)

_ERRORS = {
    "400": "the request is invalid",
    "403": "the token is missing or unknown",
    "404": "there is no such context, or it belongs to another user",
    "409": "the context has ended meanwhile",
    "429": "a limit of the user or of the context is reached",
    "503": "the server has no room for another kernel, or is shutting down",
}


def document(version: str, base: str) -> Json:
    """Return the document.

    Args:
        version: the version of the server.
        base: the path under which the server is mounted; empty for none.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kernelproto contexts",
            "version": version,
            "description": "Run code in kernels over HTTP. Jupyter's REST API, which the server "
            "has as well, is not part of this document.",
        },
        "servers": [{"url": base or "/"}],
        "security": [{"token": []}],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas() -> Json:
    refs, schemas = msgspec.json.schema_components(
        [*_MODELS, events.AnyEvent], ref_template="#/components/schemas/{name}"
    )
    for name, schema in schemas.items():
        kind = getattr(models, name, None) or getattr(events, name)
        _describe(schema, kind)
    *_, event = refs
    return {**schemas, "Event": {"description": "One line of the stream.", **event}}


def _describe(schema: Json, kind: type[Any]) -> None:
    """Split the docstring of a model into descriptions of the schema and of the properties."""
    schema["description"] = (inspect.getdoc(kind) or "").partition("\n\nArgs:")[0]
    for base in kind.__mro__:
        for name, text in _ARGUMENT.findall(inspect.cleandoc(base.__doc__ or "")):
            if name in schema["properties"]:
                schema["properties"][name].setdefault("description", " ".join(text.split()))


def _paths() -> Json:
    one = {"parameters": [_parameter("path", "id", "the id of the context")]}
    name = "the path of the file, relative to the working directory; a slash may be written as %2F"
    file = {"parameters": [*one["parameters"], _parameter("path", "name", name)]}
    return {
        "/api/contexts": {
            "get": _operation(
                "listContexts",
                "List the contexts of the user",
                _json("the contexts", {"type": "array", "items": _ref("ContextModel")}),
            ),
            "post": _operation(
                "startContext",
                "Start a context",
                _json("the context", _ref("ContextModel"), status="201"),
                body=_body("ContextRequest", required=False),
                errors=("400", "404", "429", "503"),
            ),
        },
        "/api/contexts/{id}": {
            **one,
            "get": _operation(
                "showContext",
                "Describe a context",
                _json("the context", _ref("ContextModel")),
                errors=("404",),
            ),
            "delete": _operation("endContext", "End a context", _nothing(), errors=("404",)),
        },
        "/api/contexts/{id}/execute": {**one, "post": _execute()},
        "/api/contexts/{id}/interrupt": {
            **one,
            "post": _operation(
                "interruptContext",
                "Interrupt the code that runs, or one execution",
                _nothing(),
                body=_body("InterruptRequest", required=False),
                errors=("400", "404", "409"),
            ),
        },
        "/api/contexts/{id}/restart": {
            **one,
            "post": _operation(
                "restartContext",
                "Start a new process; the variables are lost",
                _json("the context", _ref("ContextModel")),
                errors=("404", "409", "429"),
            ),
        },
        "/api/contexts/{id}/files": {
            **one,
            "get": _operation(
                "listFiles",
                "List the files in the working directory",
                _json("the files", _ref("FileList")),
                errors=("404",),
            ),
        },
        "/api/contexts/{id}/files/{name}": {**file, **_file()},
    }


def _execute() -> Json:
    stream = {
        "application/x-ndjson": {"schema": _ref("Event")},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    key = (
        "a new, random value for each execution. A request with the same key joins the execution; "
        f"without a reader its code is interrupted after {REJOIN_SECONDS:g} s only"
    )
    operation = _operation(
        "execute",
        "Run code",
        {
            "200": {
                "description": "a stream of events, one JSON object a line; the last one is "
                "EndOfExecution. With Accept: text/event-stream, server-sent events with the same "
                "objects",
                "headers": {
                    "Idempotency-Replayed": {
                        "description": "true if the execution was started by an earlier request",
                        "schema": {"type": "string"},
                    }
                },
                "content": stream,
            }
        },
        body=_body("ExecuteRequest"),
        errors=("400", "404", "429", "503"),
    )
    operation["parameters"] = [_parameter("header", "Idempotency-Key", key)]
    operation["responses"]["422"] = _error("another request had this Idempotency-Key")
    operation["description"] = (
        "The executions of a context run one after the other; at most "
        f"{MOST_OPEN} may run or wait. When no client reads the events, the code is interrupted, "
        "unless on_disconnect is continue."
    )
    return operation


def _file() -> Json:
    data: Json = {"application/octet-stream": {}}
    download = _operation(
        "downloadFile",
        "Download a file or a part of it",
        {
            "200": {"description": "the file", "content": data},
            "206": {"description": "the part", "content": data},
        },
        errors=("400", "404"),
    )
    download["parameters"] = [_parameter("header", "Range", "one part, such as bytes=0-99")]
    download["responses"]["416"] = _error("the file has no such part")
    upload = _operation(
        "uploadFile",
        "Write a file; a file of this name is replaced",
        _nothing(),
        body={"required": True, "content": data},
        errors=("400", "404", "429"),
    )
    upload["responses"]["408"] = _error("the body did not arrive in time")
    too_large = f"the file has more than {MOST_FILE_BYTES} bytes, or the folder is full"
    upload["responses"]["413"] = _error(too_large)
    remove = _operation("removeFile", "Remove a file", _nothing(), errors=("400", "404"))
    return {"get": download, "put": upload, "delete": remove}


def _operation(
    name: str,
    summary: str,
    responses: Json,
    *,
    body: Json | None = None,
    errors: tuple[str, ...] = (),
) -> Json:
    operation = {
        "operationId": name,
        "summary": summary,
        "responses": {
            **responses,
            **{status: _error(_ERRORS[status]) for status in ("403", *errors)},
        },
    }
    return operation if body is None else {**operation, "requestBody": body}


def _parameter(place: str, name: str, description: str) -> Json:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": {"type": "string"},
    }


def _body(model: str, *, required: bool = True) -> Json:
    return {"required": required, "content": {"application/json": {"schema": _ref(model)}}}


def _json(description: str, schema: Json, *, status: str = "200") -> Json:
    content = {"application/json": {"schema": schema}}
    return {status: {"description": description, "content": content}}


def _nothing() -> Json:
    return {"204": {"description": "done"}}


def _error(description: str) -> Json:
    content = {"application/json": {"schema": _ref("ErrorModel")}}
    return {"description": description, "content": content}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
