"""PURE: the names of hosts, and of the kernel types on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from kernelproto.exceptions import NoSuchKernel
from kernelproto.launch.spec.naming import is_simple_name

_MOST_HOSTS = 1000


def split_name(name: str) -> tuple[str, str]:
    """Return the host and the kernel type there, from ``HOST/NAME``.

    Raises:
        NoSuchKernel: the name has another form.
    """
    host, _, kernel = name.partition("/")
    parts = kernel.split("/")
    if is_host(host) and len(parts) <= 2 and all(map(is_simple_name, parts)):
        return host, kernel
    raise NoSuchKernel(
        f"there is no kernel type 'ssh/{name}': it must be ssh/HOST/NAME, with a HOST of "
        "~/.ssh/config and a NAME that `kernelproto list` shows there",
        name=name,
    )


def is_host(name: str) -> bool:
    """Return whether a name can be that of a host: ASCII letters, digits and ``._-``.

    The program ssh would take a name that begins with a hyphen for an option.
    """
    return is_simple_name(name) and not name.startswith("-")


def configured_hosts(config: str) -> Iterator[str]:
    """Yield the hosts that an ssh_config names, without patterns, in order."""
    seen: set[str] = set()
    for line in config.splitlines():
        key, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if key.lower() != "host":
            continue
        for host in re.findall(r'"[^"]*"|\S+', rest):
            host = host.strip('"')
            if is_host(host) and host not in seen and len(seen) < _MOST_HOSTS:
                seen.add(host)
                yield host


def safe_python(python: str) -> bool:
    """Return whether the path of an interpreter means the same in every shell, in quotes."""
    return re.fullmatch(r"[A-Za-z0-9_./+@: -]+", python) is not None and not python.startswith("-")


def checked_names(names: Iterable[str]) -> list[str]:
    """Return the names from a far side that are names of kernel types."""
    return [name for name in names if all(map(is_simple_name, name.split("/")))]
