"""The errors of ssh, from its words."""

from __future__ import annotations

import pytest

from kernelproto.ssh.failures import HostFault, program_error, ssh_error


@pytest.mark.parametrize(
    ("stderr", "fault"),
    [
        ("ssh: Could not resolve hostname nowhere: Name or service not known", "unknown_host"),
        ("ada@node7: Permission denied (publickey).", "key_refused"),
        (
            "Received disconnect from 10.0.0.7 port 22:2: Too many authentication failures",
            "key_refused",
        ),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "host_key_changed",
        ),
        (
            "No ED25519 host key is known for node7 and you have requested strict checking.\n"
            "Host key verification failed.",
            "host_key_unknown",
        ),
        ("ssh: connect to host node7 port 22: Connection refused", "unreachable"),
        ("ssh: connect to host node7 port 22: No route to host", "unreachable"),
        ("kex_exchange_identification: Connection closed by remote host", "unreachable"),
        ("muxclient: something else", "other"),
        ("", "other"),
    ],
)
def test_fault_of_ssh(stderr: str, fault: HostFault) -> None:
    error = ssh_error("node7", stderr)
    assert (error.fault, error.host) == (fault, "node7")
    assert "the host 'node7' cannot be used: " in str(error)


@pytest.mark.parametrize(
    ("returncode", "stderr", "fault"),
    [
        (127, "bash: line 1: exec: python3: not found", "no_python"),
        (126, "", "no_python"),
        (1, "fish: Unknown command: python3\ncommand not found", "no_python"),
        (1, "kernelproto needs Python 3.9 or newer, not 3.6", "no_python"),
        (1, "OSError: [Errno 28] No space left on device", "no_space"),
        (3, "", "other"),
    ],
)
def test_fault_of_a_program(returncode: int, stderr: str, fault: HostFault) -> None:
    assert program_error("node7", returncode, stderr).fault == fault


def test_quoted_words_have_a_limit_and_no_control_characters() -> None:
    error = ssh_error("node7", "\x1b[31mred\r\n" * 1000)
    assert len(str(error)) < 2300
    assert "\x1b" not in str(error)


def test_lines_of_ssh_end_as_on_a_terminal() -> None:
    error = ssh_error("node7", "ssh: connect to host node7\r\nPermission denied.\r\n")
    assert str(error).endswith("(ssh: connect to host node7; Permission denied.)")
