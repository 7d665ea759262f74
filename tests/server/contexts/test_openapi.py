"""The OpenAPI document: valid, complete, and true of the server."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from starlette.routing import Route

from kernelproto.remote.events import encode_output
from kernelproto.server.contexts.openapi import document
from kernelproto.server.routes.contexts import CONTEXTS

DOCUMENT = document("1.0", "/prefix")
SCHEMAS = DOCUMENT["components"]["schemas"]


def check(value: object, model: str) -> None:
    """Check a value against a schema of the document."""
    schema = {"$ref": f"#/components/schemas/{model}", "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def test_the_document_is_valid() -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(json.loads(json.dumps(DOCUMENT)))


def test_every_field_is_described_in_one_sentence() -> None:
    for name, schema in SCHEMAS.items():
        assert schema["description"], name
        assert "Args:" not in schema["description"]
        undescribed = [
            key for key, value in schema.get("properties", {}).items() if "description" not in value
        ]
        assert set(undescribed) <= {"type"}, (name, undescribed)


@pytest.mark.anyio
async def test_every_route_is_described(serving, no_leaks: None) -> None:
    async with serving() as server, server.client("ada") as ada:
        routes = {
            (re.sub(r"\{context_id\}", "{id}", route.path).replace(":path", ""), method.lower())
            for route in server.app.routes
            if isinstance(route, Route) and route.path.startswith(CONTEXTS)
            for method in (route.methods or set()) - {"HEAD"}
        }
        served = (await ada.get("/api/openapi.json")).json()
    described = {
        (path, method)
        for path, operations in served["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert described == routes
    assert served["servers"] == [{"url": "/"}]


@pytest.mark.anyio
async def test_responses_are_as_described(serving, no_leaks: None) -> None:
    async with serving() as server, server.client("ada") as ada:
        model = (await ada.post("/api/contexts")).json()
        check(model, "ContextModel")
        path = f"/api/contexts/{model['id']}"
        check((await ada.get(f"{path}x")).json(), "ErrorModel")
        for code in ("6 * 7", "say x"):
            response = await ada.post(f"{path}/execute", json={"code": code})
            for line in response.text.splitlines():
                check(json.loads(line), "Event")
    check(json.loads(encode_output("error", b'{"ename": "E", "traceback": ["a"]}', 0)), "Event")
    with pytest.raises(jsonschema.ValidationError):
        check({"type": "stdout"}, "Event")
    check({"code": "1", "timeout": 1.5}, "ExecuteRequest")
    with pytest.raises(jsonschema.ValidationError):
        check({"code": "1", "context_id": "x"}, "ExecuteRequest")
