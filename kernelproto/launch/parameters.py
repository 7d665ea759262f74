"""From a command line with names in braces, and launch parameters, to what is run.

Specification: "Kernel specs", argv and env.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

import msgspec

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.connection_file import Transport

# Filled in by the launch itself; a launch parameter of the same name has no effect.
_SYSTEM_NAMES = frozenset({"connection_file", "kernel_id", "prefix", "resource_dir"})

_OPTIONS: dict[str, tuple[Any, str]] = {
    "env": (dict[str, str], "a mapping of strings to strings"),
    "extra_arguments": (tuple[str, ...], "a list of strings"),
    "transport": (Transport, "'tcp' or 'ipc'"),
}

_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_]+)\}")
_THIS_PYTHON = frozenset(
    {"python", f"python{sys.version_info.major}", "python{}.{}".format(*sys.version_info)}
)


class LaunchParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller of a launch has decided.

    Args:
        env: environment variables for the kernel; they win over all others.
        extra_arguments: appended to the command line.
        transport: ``"tcp"`` or ``"ipc"``; None leaves it to the kernel type.
        values: for the names in braces in the command line.
    """

    env: Mapping[str, str] = {}
    extra_arguments: Sequence[str] = ()
    transport: Transport | None = None
    values: Mapping[str, str] = {}

    @classmethod
    def check(
        cls, launch_params: Mapping[str, object] | None, *, argv: Sequence[str]
    ) -> LaunchParameters:
        """Take the launch parameters of a kernel type that has the command line *argv*.

        Raises:
            InvalidLaunchParameter: one is of the wrong kind, or has no effect on this kernel type.
        """
        blanks = frozenset(_PLACEHOLDER.findall(" ".join(argv))) - _SYSTEM_NAMES
        options: dict[str, Any] = {}
        values: dict[str, str] = {}
        for name, value in (launch_params or {}).items():
            if name in _OPTIONS:
                options[name] = _convert(name, value, *_OPTIONS[name])
            elif name in blanks:
                values[name] = str(_convert(name, value, str | int | float, "a string or a number"))
            elif name not in _SYSTEM_NAMES:
                known = ", ".join(sorted(_OPTIONS.keys() | blanks))
                raise InvalidLaunchParameter(
                    f"launch parameter {name!r} has no effect on this kernel type; it takes {known}"
                )
        return cls(values=values, **options)


def fill_in(argv: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Replace the names in braces that *values* has; others stay, they may mean something else."""

    def value_of(blank: re.Match[str]) -> str:
        return values.get(blank[1], blank[0])

    return [_PLACEHOLDER.sub(value_of, argument) for argument in argv]


def with_this_python(argv: Sequence[str]) -> list[str]:
    """Let a bare ``python`` of this version mean the running interpreter, as Jupyter does."""
    program, *arguments = argv
    return [sys.executable if program in _THIS_PYTHON else program, *arguments]


def kernel_environment(
    of_kernel_type: Mapping[str, str], of_caller: Mapping[str, str]
) -> dict[str, str]:
    """Return this process' environment with both laid over it, the caller's on top.

    ``${NAME}`` in a value of the kernel type is a variable of this process; an unknown one stays.
    """
    expanded = {
        name: Template(value).safe_substitute(os.environ) for name, value in of_kernel_type.items()
    }
    return {**os.environ, **expanded, **of_caller}


def _convert(name: str, value: object, kind: Any, words: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidLaunchParameter(
            f"launch parameter {name!r} must be {words}: {error}"
        ) from error
