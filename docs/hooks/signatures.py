"""Show complete signatures: those of Structs, and the values of private defaults."""

from __future__ import annotations

from typing import Any

from griffe import (
    Attribute,
    Class,
    Extension,
    Function,
    Module,
    Parameter,
    ParameterKind,
    Parameters,
)

_MADE_OF_FIELDS = {"msgspec.Struct", "typing.NamedTuple"}


class Signatures(Extension):
    """Complete the signatures of a package.

    msgspec's Structs and NamedTuples get an ``__init__`` with their fields. A default that is a
    private name is replaced by its value.
    """

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Complete the signatures of a loaded package."""
        _look_through(pkg)


def _look_through(scope: Module | Class) -> None:
    for member in scope.members.values():
        if isinstance(member, Module | Class):
            _look_through(member)
            if isinstance(member, Class) and _is_made_of_fields(member):
                member.set_member("__init__", _init(member))
        elif isinstance(member, Function):
            for parameter in member.parameters:
                constant = member.module.members.get(str(parameter.default))
                if isinstance(constant, Attribute) and constant.name.startswith("_"):
                    parameter.default = constant.value


def _is_made_of_fields(class_: Class) -> bool:
    paths = {getattr(base, "canonical_path", str(base)) for base in class_.bases}
    return bool(paths & _MADE_OF_FIELDS) or any(map(_is_made_of_fields, _parents(class_)))


def _parents(class_: Class) -> list[Class]:
    return [base for base in class_.resolved_bases if isinstance(base, Class)]


def _init(class_: Class) -> Function:
    fields = sorted(_fields(class_).values(), key=lambda field: field.kind.value)
    init = Function("__init__", parameters=Parameters(Parameter("self"), *fields))
    init.parent = class_
    return init


def _fields(class_: Class) -> dict[str, Parameter]:
    fields: dict[str, Parameter] = {}
    for parent in _parents(class_):
        fields |= _fields(parent)
    by_name = class_.keywords.get("kw_only")
    kind = ParameterKind.keyword_only if by_name else ParameterKind.positional_or_keyword
    for name, member in class_.members.items():
        if isinstance(member, Attribute) and member.annotation and "property" not in member.labels:
            fields[name] = Parameter(
                name, annotation=member.annotation, kind=kind, default=member.value
            )
    return fields
