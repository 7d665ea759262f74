"""Launch parameters: checking them, and filling them into command line and environment.

Specification: "Kernel specs", argv and env.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from string import Template
from typing import Annotated, Any, cast

import msgspec

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.address.connection_file import Transport
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.spec.encryption import Encryption
from kernelproto.launch.spec.naming import nearest_first
from kernelproto.launch.spec.schema import ParameterSchema

# Text that the operating system can pass to a program.
Argument = Annotated[str, msgspec.Meta(pattern=r"\A[^\0]*\Z")]
VariableName = Annotated[str, msgspec.Meta(pattern=r"\A[^=\0]+\Z")]
Variables = Mapping[VariableName, Argument]

# Filled in by the launch; a launch parameter of the same name has no effect.
SYSTEM_NAMES = frozenset({"connection_file", "kernel_id", "prefix", "resource_dir"})

# The launch parameters that every kernel type takes: the fields of LaunchParameters, save `values`.
_OPTIONS: dict[str, tuple[Any, str]] = {
    "env": (dict[VariableName, Argument], "a mapping of variable names to strings"),
    "extra_arguments": (tuple[Argument, ...], "a list of strings"),
    "transport": (Transport, "'tcp' or 'ipc'"),
    "ip": (str, "an IPv4 address"),
    "detached": (bool, "true or false"),
    "listed_as": (Argument, "a string"),
    "limits": (Limits, "a mapping with memory, cpu_seconds, open_files or processes"),
    "sandbox": (Sandbox, "a mapping with the fields of Sandbox"),
    "output": (Any, "something to write to"),
    "encryption": (Encryption, "'disabled', 'auto' or 'required'"),
}

_DEEPEST = 50
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_Scalar = str | Annotated[int, msgspec.Meta(ge=_SMALLEST, le=_LARGEST)] | float

_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_]+)\}")
_PLACEHOLDER_IN_ENV = re.compile(r"(?<!\$)" + _PLACEHOLDER.pattern)
_VARIABLE = re.compile(r"(\$?)\$\{([^}]+)\}")
_THIS_PYTHON = frozenset(
    {"python", f"python{sys.version_info.major}", "python{}.{}".format(*sys.version_info)}
)


class LaunchParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The launch parameters of one launch, checked.

    Args:
        env: environment variables for the kernel; they override all others. ``${NAME}`` is a
            variable of this process.
        extra_arguments: appended to the command line.
        transport: ``"tcp"`` or ``"ipc"``; None means the choice of the kernel type.
        ip: the IPv4 address that the kernel binds, which makes the transport tcp; None means
            loopback.
        encryption: ``"disabled"``, ``"auto"`` or ``"required"``; see spec/encryption.py.
        detached: whether the kernel outlives this program.
        listed_as: the id under which other programs find the kernel; "" for an id of its own.
        limits: the limits of each process of the kernel; see Limits.
        sandbox: how the kernel is kept apart from this machine; see Sandbox.
        output: where the kernel's output goes, in addition to the tail; see output/forward.py.
        values: for the names in braces in the command line and the environment of the kernel type.
    """

    env: Mapping[str, str] = {}
    extra_arguments: Sequence[str] = ()
    transport: Transport | None = None
    ip: str | None = None
    encryption: Encryption = "auto"
    detached: bool = False
    listed_as: str = ""
    limits: Limits | None = None
    sandbox: Sandbox | None = None
    output: object = None
    values: Mapping[str, str] = {}

    @classmethod
    def check(
        cls,
        launch_params: Mapping[str, object] | None,
        *,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        schema: ParameterSchema | None = None,
    ) -> LaunchParameters:
        """Check the launch parameters for a kernel type.

        A name in braces takes a string or a number, unless the schema says otherwise. Parameters
        that the schema declares are allowed even if no braces use them. A string is filled in as
        text, any other value as JSON. A schema may restrict the options that every kernel type
        has, such as ``env``, but cannot give them defaults.

        Args:
            launch_params: as the caller gave them.
            argv: the kernel type's command line.
            env: the kernel type's environment variables.
            schema: the kernel type's schema for the parameters.

        Raises:
            InvalidLaunchParameter: a parameter is missing, not allowed, or without effect here.
            InvalidKernelSpec: the schema cannot be used.
        """
        blanks = _blanks(argv, env or {}) - SYSTEM_NAMES
        declared = schema.names - SYSTEM_NAMES if schema else frozenset[str]()
        free_blanks = frozenset[str]() if schema and schema.is_closed else blanks
        options: dict[str, Any] = {}
        described: dict[str, Any] = {}
        values: dict[str, str] = {}
        for name, value in (launch_params or {}).items():
            if name in SYSTEM_NAMES:
                continue
            if name in _OPTIONS:
                options[name] = _convert(name, value, *_OPTIONS[name])
            if name in declared or (name not in _OPTIONS and schema and schema.accepts(name)):
                described[name] = _as_json(name, value)
            elif name in free_blanks:
                values[name] = str(_convert(name, value, _Scalar, "a string or a number"))
            elif name not in _OPTIONS:
                raise _unknown(name, _OPTIONS.keys() | free_blanks | declared)
        if schema:
            for name, value in schema.complete(described).items():
                if name not in _OPTIONS and name not in SYSTEM_NAMES:
                    values[name] = _text(value)
        for name in sorted(blanks & declared - values.keys() - _OPTIONS.keys()):
            raise InvalidLaunchParameter(
                f"launch parameter {name!r} is missing: the kernelspec needs it and has no default"
            )
        for name, text in values.items():
            _convert(name, text, Argument, "free of NUL characters")
        return cls(values=values, **options)


def require_known(parameters: LaunchParameters, known: Sequence[str], kernel: str) -> None:
    """Check that launch parameters have only options that a kernel type takes.

    Args:
        parameters: the launch parameters.
        known: the names of these options.
        kernel: the kernel type, for the error.

    Raises:
        InvalidLaunchParameter: another option was given, which would have no effect.
    """
    defaults = LaunchParameters()
    for name in _OPTIONS:
        if name not in known and getattr(parameters, name) != getattr(defaults, name):
            raise InvalidLaunchParameter(
                f"launch parameter {name!r} has no effect on {kernel}; it takes {', '.join(known)}"
            )


def fill_in(argv: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Replace the names in braces that *values* has; keep the others, as for a shell."""

    def value_of(blank: re.Match[str]) -> str:
        return values.get(blank[1], blank[0])

    return [_PLACEHOLDER.sub(value_of, argument) for argument in argv]


def with_this_python(argv: Sequence[str], python: str | None = None) -> list[str]:
    """Replace a bare ``python`` of this version, as Jupyter does.

    Args:
        argv: the command line.
        python: the path of the interpreter to use; by default the running one.
    """
    program, *arguments = argv
    name = program.lower().removesuffix(".exe") if os.name == "nt" else program
    return [python or sys.executable if name in _THIS_PYTHON else program, *arguments]


def kernel_environment(
    of_kernel_type: Mapping[str, str],
    of_caller: Mapping[str, str],
    values: Mapping[str, str] | None = None,
    *,
    inherited: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the inherited environment with the other variables added; the caller's win.

    In the caller's values, ``${NAME}`` is an inherited variable; an unknown one stays, and so does
    every other ``$``. ``$${NAME}`` gives ``${NAME}``.

    In the values of the kernel type, ``${NAME}`` may be a variable of the caller as well, and the
    names in braces that *values* has are filled in. ``$NAME`` and ``$$`` mean the same as in
    Jupyter, which uses ``string.Template``. Text that was filled in is not expanded again.

    Args:
        of_kernel_type: the variables of the kernel type.
        of_caller: the variables of the caller.
        values: the launch parameters.
        inherited: the environment of the launching process; by default of this process.
    """
    if inherited is None:
        inherited = os.environ
    callers = {name: _expand(value, inherited) for name, value in of_caller.items()}
    variables = {**inherited, **callers}
    kernel_types = {
        name: _fill_in_and_expand(value, values or {}, variables)
        for name, value in of_kernel_type.items()
    }
    return {**inherited, **kernel_types, **callers}


def literal(value: str) -> str:
    """Escape *value*, so that ``kernel_environment`` gives the kernel exactly this text."""
    return _VARIABLE.sub(r"$\g<0>", value)


def _blanks(argv: Sequence[str], env: Mapping[str, str]) -> frozenset[str]:
    in_argv = [_PLACEHOLDER.findall(argument) for argument in argv]
    in_env = [_PLACEHOLDER_IN_ENV.findall(value) for value in env.values()]
    return frozenset[str]().union(*in_argv, *in_env)


def _expand(value: str, variables: Mapping[str, str]) -> str:
    def value_of(variable: re.Match[str]) -> str:
        escape, name = variable.groups()
        return variable[0][1:] if escape else variables.get(name, variable[0])

    return _VARIABLE.sub(value_of, value)


def _fill_in_and_expand(value: str, values: Mapping[str, str], variables: Mapping[str, str]) -> str:
    filled: list[str] = []
    # Every other piece is the name of a blank.
    for index, piece in enumerate(_PLACEHOLDER_IN_ENV.split(value)):
        if index % 2:
            filled.append(values.get(piece, f"{{{piece}}}"))
        else:
            filled.append(Template(piece).safe_substitute(variables))
    return "".join(filled)


def _convert(name: str, value: object, kind: Any, words: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidLaunchParameter(
            f"launch parameter {name!r} must be {words}: {error}"
        ) from error


def _as_json(name: str, value: object, depth: int = _DEEPEST) -> Any:
    """Return *value* with the types that JSON has; schemas know no others."""
    match value:
        case _ if depth == 0:
            reason = f"not be nested deeper than {_DEEPEST} levels"
        case Mapping() if all(isinstance(key, str) for key in cast(Mapping[object, object], value)):
            pairs = cast(Mapping[str, object], value).items()
            return {key: _as_json(f"{name}.{key}", inner, depth - 1) for key, inner in pairs}
        case list() | tuple():
            items = enumerate(cast(Sequence[object], value))
            return [_as_json(f"{name}.{index}", inner, depth - 1) for index, inner in items]
        case None | str():
            return value
        case int() if _SMALLEST <= value <= _LARGEST:
            return value
        case float() if math.isfinite(value):
            return value
        case _:
            reason = f"be a value that JSON has, not {type(value).__name__}"
    raise InvalidLaunchParameter(f"launch parameter {name!r} must {reason}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _unknown(name: str, known: Iterable[str]) -> InvalidLaunchParameter:
    return InvalidLaunchParameter(
        f"launch parameter {name!r} has no effect on this kernel type; "
        f"it takes {', '.join(nearest_first(str(name), known))}"
    )
