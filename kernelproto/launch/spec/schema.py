"""ParameterSchema: the JSON Schema with which a kernelspec describes its launch parameters.

jsonschema is imported when there is a schema and not before: the import takes 50 ms.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from kernelproto.exceptions import InvalidKernelSpec, InvalidLaunchParameter

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_Schema = dict[str, Any]
_Resolver = Any  # referencing does not name this type

_SHOWN_CHARACTERS = 200

# Keywords without effect on which values are allowed.
_ANNOTATIONS = frozenset(
    {"$comment", "default", "deprecated", "description", "examples", "readOnly", "title"}
)
_ABOUT_NAMES = frozenset({"additionalProperties", "unevaluatedProperties", "dependentRequired"})
_SECRETS = ('"format": "password"', '"writeOnly": true')

# Keywords with schemas for the same value, always or under a condition.
_EVERY_TIME = ("allOf",)
_SOMETIMES = ("allOf", "anyOf", "oneOf", "if", "then", "else")


class ParameterSchema:
    """The schema of the launch parameters of a kernelspec.

    Args:
        schema: a JSON Schema for the mapping of all parameters, of the draft that ``$schema``
            names, by default 2020-12. References to other documents are never fetched.
        path: the path of the kernel.json, for messages.
        key: the place of the schema in that file, for messages.

    Attributes:
        names: the parameters that the schema declares.
        is_closed: whether the schema forbids all other parameters.

    Raises:
        InvalidKernelSpec: the value is not a JSON Schema.
    """

    def __init__(self, schema: object, *, path: str, key: str) -> None:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import Draft202012Validator, validator_for
        from referencing import Registry
        from referencing.jsonschema import DRAFT202012, specification_with

        self._path = path
        self._key = key
        if not isinstance(schema, dict):
            raise self._invalid("a JSON Schema is an object")
        self._schema = cast(_Schema, schema)
        dialect: object = self._schema.get("$schema", "")
        if not isinstance(dialect, str):
            raise self._invalid("'$schema' must be a string")
        try:
            draft = validator_for(self._schema, default=Draft202012Validator)
            draft.check_schema(self._schema)
            specification = specification_with(dialect, default=DRAFT202012)
            # A registry of our own: jsonschema's would fetch the documents that a $ref names.
            nothing_else: Registry[Any] = Registry()
            self._validator = draft(self._schema, registry=nothing_else)
            self._resolver: _Resolver = nothing_else.resolver_with_root(
                specification.create_resource(self._schema)
            )
            parts = [part for part, _ in _parts(self._schema, self._resolver, _SOMETIMES)]
            self._declared: dict[str, list[Any]] = {}
            for part in parts:
                for name, inner in part.get("properties", {}).items():
                    if inner is not False:
                        self._declared.setdefault(name, []).append(inner)
            self.names = frozenset(self._declared)
            self._patterns = [
                re.compile(pattern)
                for part in parts
                for pattern in part.get("patternProperties", ())
            ]
        except SchemaError as error:
            where = "".join(f"[{step!r}]" for step in error.absolute_path)
            raise self._invalid(f"{where or 'the schema'} is wrong: {error.message}") from error
        except Exception as error:
            # A reference may lead to a part that was not checked, with any exception as result.
            raise self._invalid(_reason(error)) from error
        self.is_closed = any(part.get("additionalProperties") is False for part in parts)
        self._lets_others_through = any(
            part.get(keyword, False) is not False
            for part in parts
            for keyword in ("additionalProperties", "unevaluatedProperties")
        )

    def accepts(self, name: str) -> bool:
        """Return whether the schema declares this parameter or allows others."""
        return (
            name in self.names
            or (self._lets_others_through and not self.is_closed)
            or any(pattern.search(name) for pattern in self._patterns)
        )

    def is_secret(self, name: str) -> bool:
        """Return whether the schema marks a parameter, or a part of one, as secret.

        References are not followed: where the schema marks anything as secret, a parameter that is
        described by a reference or by a pattern counts as secret too.
        """
        described = json.dumps(self._declared.get(name))
        if any(mark in described for mark in _SECRETS):
            return True
        is_explicit = name in self._declared and '"$ref"' not in described
        return not is_explicit and any(mark in json.dumps(self._schema) for mark in _SECRETS)

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters with the schema's defaults, validated.

        A default is set in objects that exist: at the top, in an object that was given, and in an
        object that is a default. Defaults under ``anyOf``, ``oneOf`` or ``if`` are not set, because
        they may not apply.

        Args:
            given: the parameters, in JSON types.

        Raises:
            InvalidLaunchParameter: a parameter is missing or not allowed.
            InvalidKernelSpec: a default is not allowed, or the schema cannot be used.
        """
        from jsonschema import exceptions

        values = dict(copy.deepcopy(given))
        try:
            _set_defaults(values, self._schema, self._resolver)
            errors = self._validator.iter_errors(values)
            error: ValidationError | None = cast(Any, exceptions).best_match(errors)
        except Exception as unusable:
            raise self._invalid(_reason(unusable)) from unusable
        if error is None:
            return values
        if not _is_in(given, error.absolute_path):
            raise self._invalid(f"a default is not allowed: {_explain(error)}")
        raise InvalidLaunchParameter(_explain(error))

    def _invalid(self, reason: str) -> InvalidKernelSpec:
        return InvalidKernelSpec(
            f"{self._path}: {self._key!r}: {reason}", path=self._path, key=self._key
        )


def _parts(
    schema: Any, resolver: _Resolver, keywords: Sequence[str]
) -> Iterator[tuple[_Schema, _Resolver]]:
    """Yield the schema and all subschemas of the same value, each with a resolver."""
    if not isinstance(schema, dict):
        return  # true or false
    part = cast(_Schema, schema)
    yield part, resolver
    if "$ref" in part:
        target = resolver.lookup(part["$ref"])
        yield from _parts(target.contents, target.resolver, keywords)
    for keyword in keywords:
        inner: Any = part.get(keyword)
        one_or_many = cast(Sequence[Any], inner) if isinstance(inner, list) else [inner]
        for one in one_or_many:
            yield from _parts(one, resolver, keywords)


def _set_defaults(value: Any, schema: Any, resolver: _Resolver) -> None:
    for part, here in _parts(schema, resolver, _EVERY_TIME):
        if isinstance(value, dict):
            members = cast(dict[str, Any], value)
            for name, inner in cast(_Schema, part.get("properties", {})).items():
                if name not in members:
                    parts = _parts(inner, here, _EVERY_TIME)
                    defaults = [one["default"] for one, _ in parts if "default" in one]
                    if not defaults:
                        continue
                    members[name] = copy.deepcopy(defaults[0])
                _set_defaults(members[name], inner, here)
        elif isinstance(value, list):
            for item in cast(Sequence[Any], value):
                _set_defaults(item, part.get("items"), here)


def _is_in(given: Any, path: Sequence[str | int]) -> bool:
    """Return whether the value at *path* is the caller's, and not a default."""
    try:
        for step in path:
            given = given[step]
    except (LookupError, TypeError):
        return False
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it refers to itself without end"
    return f"it cannot be used: {type(error).__name__}: {error}"


def _explain(error: ValidationError) -> str:
    """Name the wrong parameter, the value, and the allowed values."""
    name = ".".join(map(str, error.absolute_path))
    parameter = f"launch parameter {name!r}" if name else "the launch parameters"
    keyword = str(error.validator)
    demand, schema, value = cast(
        tuple[Any, Any, Any], (error.validator_value, error.schema, error.instance)
    )
    if keyword == "required":
        missing = next(one for one in demand if one not in value)
        name = f"{name}.{missing}" if name else missing
        described = schema.get("properties", {}).get(missing, {})
        return f"launch parameter {name!r} is missing; allowed is {_allowed(described)}"
    if keyword in _ABOUT_NAMES or schema is False:
        return f"{parameter}: {error.message}"  # these quote no secrets
    is_secret = any(mark in json.dumps(schema) for mark in _SECRETS)
    return (
        f"{parameter} {'is' if name else 'are'} {'a secret' if is_secret else _json(value)}, "
        f"which breaks {keyword!r}: {_json(demand)}; allowed is {_allowed(schema)}"
    )


def _allowed(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "anything"
    rules = {name: rule for name, rule in cast(_Schema, schema).items() if name not in _ANNOTATIONS}
    return _json(rules) if rules else "anything"


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
