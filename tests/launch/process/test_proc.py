from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kernelproto.launch.process import proc as module
from kernelproto.launch.process.proc import (
    boot_id,
    children,
    command_line,
    oom_kills,
    oom_score_adj,
    pid_namespace,
    sockets_of_group,
    tcp_listeners,
    thread_control_groups,
    thread_namespaces,
    thread_status,
    unix_sockets,
)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc"),
    pytest.mark.usefixtures("no_leaks"),
]


@contextmanager
def denied(error: type[OSError]) -> Iterator[None]:
    """Let no file be opened, listed or followed in the block."""

    def fail(*arguments: object, **options: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open", fail, raising=False)
        patch.setattr(os, "listdir", fail)
        patch.setattr(os, "readlink", fail)
        yield


def test_machine() -> None:
    assert len(boot_id()) == 36
    assert pid_namespace() == os.readlink("/proc/self/ns/pid")


def test_state_of_the_thread() -> None:
    assert int(thread_status()[b"Pid"]) == threading.get_native_id()
    assert pid_namespace() in thread_namespaces()
    assert thread_control_groups() == Path("/proc/self/cgroup").read_bytes()
    assert -1000 <= int(oom_score_adj() or "") <= 1000


def test_processes() -> None:
    command = ["/bin/sh", "-c", "echo ready; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            assert process.pid in children(os.getpid())
            assert command_line(process.pid) == "\0".join([*command, ""]).encode()
            assert children(process.pid) == []
        finally:
            process.kill()
    assert command_line(process.pid) == b""
    assert children(process.pid) == []


def test_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.create_server(("127.0.0.2", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        _, port = tcp.getsockname()
        own = {os.readlink(f"/proc/self/fd/{one.fileno()}") for one in (tcp, unix)}
        (listener,) = (one for where, number, one in tcp_listeners() if number == port)
        assert (IPv4Address("127.0.0.2"), port, listener) in list(tcp_listeners())
        (bound,) = (one for where, one in unix_sockets() if where == path)
        assert {listener, bound} == own
        assert own <= sockets_of_group(os.getpgrp())
    os.unlink(path)


def test_oom_kills() -> None:
    count = oom_kills()
    assert count is not None
    assert count >= 0
    with denied(PermissionError):
        assert oom_kills() is None


def test_system_without_proc() -> None:
    with denied(FileNotFoundError):
        assert (boot_id(), pid_namespace(), oom_kills(), oom_score_adj()) == ("", "", None, None)
        assert (thread_status(), thread_namespaces(), thread_control_groups()) == ({}, (), b"")
        assert (command_line(os.getpid()), children(os.getpid())) == (b"", [])
        assert (list(tcp_listeners()), list(unix_sockets())) == ([], [])
        assert sockets_of_group(os.getpgrp()) == set()


@pytest.mark.parametrize("read", [boot_id, thread_status, thread_control_groups, pid_namespace])
def test_lack_of_descriptors_is_no_answer(read: Callable[[], object]) -> None:
    with denied(OSError), pytest.raises(OSError):  # noqa: PT011
        read()
