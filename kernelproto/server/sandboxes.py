"""The sandboxes of kernels: the settings of the server, and requests to tighten them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kernelproto.launch.process.sandbox import Sandbox

# Linux has fewer numbers for processes.
_ANY_PROCESSES = 2**22

_NETWORKS = ("none", "loopback", "full")

# The work for each path is a few system calls.
_MOST_PATHS = 100


def with_process_limit(
    sandbox: Mapping[str, object], limits: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """Move the limit of processes from the limits to the sandbox, which counts all its processes.

    Args:
        sandbox: the settings of the sandbox.
        limits: the launch parameter ``limits``.

    Returns:
        The settings of the sandbox, and the other limits.
    """
    others = dict(limits)
    if "processes" not in others:
        return dict(sandbox), others
    return {**sandbox, "processes": others.pop("processes") or _ANY_PROCESSES}, others


def tightened(
    sandbox: Mapping[str, object], wanted: Mapping[str, object], *, is_confined: bool
) -> dict[str, object]:
    """Return the settings of a sandbox, with those that a client requests.

    Args:
        sandbox: the settings of the server.
        wanted: the client's settings.
        is_confined: whether the server confines the kernel. If not, only the settings that the
            server has are compared, because any sandbox is tighter than none.

    Raises:
        ValueError: a setting is invalid, weaker than that of the server, or not for clients.
    """
    try:
        asked = msgspec.convert(dict(wanted), Sandbox)
    except msgspec.ValidationError as error:
        raise ValueError(f"sandbox: {error}") from None
    if len(asked.writable) + len(asked.hidden) + len(asked.visible) > _MOST_PATHS:
        raise ValueError(f"sandbox: it has more than {_MOST_PATHS} paths")
    given = msgspec.convert(dict(sandbox), Sandbox)
    for name in wanted:
        if not is_confined and name not in sandbox:
            continue
        is_as_tight = _AS_TIGHT.get(name)
        if is_as_tight is None:
            raise ValueError(
                f"sandbox: {name} is for the settings of the server, which confine this kernel: "
                "leave it out"
            )
        value = getattr(asked, name)
        if not is_as_tight(value, getattr(given, name)):
            raise ValueError(
                f"sandbox: {name} {str(value)[:100]!r} is weaker than the server allows: ask for "
                "less, or leave it out"
            )
    return {**sandbox, **wanted}


def _is_at_most(asked: float | None, given: float | None) -> bool:
    return given is None or (asked is not None and asked <= given)


def _is_smaller_network(asked: str, given: str) -> bool:
    return _NETWORKS.index(asked) <= _NETWORKS.index(given)


def _has_fewer_writable(asked: Mapping[str, int | None], given: Mapping[str, int | None]) -> bool:
    # A folder of the machine and an empty folder with a quota are different folders.
    return all(
        path in given and (size is None) == (given[path] is None) and _is_at_most(size, given[path])
        for path, size in asked.items()
    )


# Each function returns whether the first value is as tight as the second one. A client must not
# choose the user of a kernel, nor find out which hidden paths exist.
_AS_TIGHT: dict[str, Callable[[Any, Any], bool]] = {
    "network": _is_smaller_network,
    "read_only": lambda asked, given: asked or not given,
    "tmp": _is_at_most,
    "writable": _has_fewer_writable,
    "visible": lambda asked, given: set(asked) <= set(given),
    "processes": _is_at_most,
    "memory": _is_at_most,
    "cpu": _is_at_most,
    "seccomp": lambda asked, given: asked == "default" or given == "none",
}
