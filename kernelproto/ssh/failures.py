"""PURE: the errors of OpenSSH and of the program on the far side, by kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from kernelproto.exceptions import LaunchError

HostFault: TypeAlias = Literal[
    "unknown_host",
    "host_key_changed",
    "host_key_unknown",
    "key_refused",
    "no_python",
    "no_space",
    "no_sockets",
    "unreachable",
    "other",
]


class RemoteHostError(LaunchError):
    """A host cannot be used over SSH.

    Attributes:
        host: the name of the host.
        fault: the kind of the fault: the host's name or key is not known or has changed, the host
            refuses the keys of this user, has no Python or no space, does not allow the forwarding
            of sockets, or cannot be reached now.
    """

    def __init__(self, message: str, *, host: str = "", fault: HostFault = "other") -> None:
        super().__init__(message)
        self.host = host
        self.fault: HostFault = fault


# The words of OpenSSH's client, which are not translated, and the kind of the error.
_FAULTS: Sequence[tuple[str, HostFault]] = (
    ("could not resolve hostname", "unknown_host"),
    ("name or service not known", "unknown_host"),
    ("remote host identification has changed", "host_key_changed"),
    ("host key verification failed", "host_key_unknown"),
    ("host key is known for", "host_key_unknown"),
    ("permission denied", "key_refused"),
    ("too many authentication failures", "key_refused"),
    ("unix_listener", "no_sockets"),
    ("no space left on device", "no_space"),
    ("disk quota exceeded", "no_space"),
    ("connection refused", "unreachable"),
    ("connection timed out", "unreachable"),
    ("operation timed out", "unreachable"),
    ("no route to host", "unreachable"),
    ("network is unreachable", "unreachable"),
    ("connection closed", "unreachable"),
    ("connection reset", "unreachable"),
    ("broken pipe", "unreachable"),
)

_WORDS: dict[HostFault, str] = {
    "unknown_host": "its name cannot be resolved: correct the name, or add it to ~/.ssh/config",
    "host_key_changed": "its host key has changed, so it may be another machine: if you trust "
    "it, remove the old key with `ssh-keygen -R`, and connect once with `ssh`",
    "host_key_unknown": "its host key is not known: connect once with `ssh`, and check the key",
    "key_refused": "it accepts none of your keys: add your key to the agent with `ssh-add`, or "
    "name it in ~/.ssh/config; passwords are never asked for",
    "no_python": "it has no Python 3.9 or newer of this name: install one, or name another one "
    "with the setting 'python' of the host",
    "no_space": "there is no space left in the home folder of your account there",
    "no_sockets": "it does not let unix sockets be forwarded: set AllowStreamLocalForwarding yes "
    "in its sshd_config",
    "unreachable": "it cannot be reached now",
    "other": "OpenSSH has failed",
}

_MOST_QUOTED = 2000
_UNPRINTABLE = re.compile(r"[^\n\x20-\x7e\xa0-\U0010ffff]")

# The exit status of a shell for a program that is not there or cannot be run.
_NOT_FOUND = (126, 127)


def ssh_error(host: str, stderr: str) -> RemoteHostError:
    """Return the error for a failure of the program ssh.

    Args:
        host: the name of the host.
        stderr: the last lines that ssh wrote.
    """
    lower = stderr.lower()
    for words, fault in _FAULTS:
        if words in lower:
            return host_error(host, fault, stderr)
    return host_error(host, "other", stderr)


def program_error(host: str, returncode: int, stderr: str) -> RemoteHostError:
    """Return the error for a program on the host that has failed without an answer."""
    lower = stderr.lower()
    missing = ("kernelproto needs python", "command not found", "unknown command")
    if returncode in _NOT_FOUND or any(words in lower for words in missing):
        return host_error(host, "no_python", stderr)
    if "no space left" in lower or "quota exceeded" in lower:
        return host_error(host, "no_space", stderr)
    return host_error(host, "other", stderr or f"exit status {returncode}")


def host_error(host: str, fault: HostFault, details: str = "") -> RemoteHostError:
    """Return the error of a kind; *details* are quoted."""
    quoted = quote(details)
    return RemoteHostError(
        f"the host {host!r} cannot be used: {_WORDS[fault]}" + (f" ({quoted})" if quoted else ""),
        host=host,
        fault=fault,
    )


def quote(text: str) -> str:
    """Return the last printable characters of a text from another program, in one line."""
    lines = [_UNPRINTABLE.sub("?", line.strip()) for line in re.split(r"\r?\n", text)]
    return "; ".join(filter(None, lines))[-_MOST_QUOTED:]
