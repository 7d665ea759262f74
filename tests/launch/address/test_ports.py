from __future__ import annotations

import ast
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.address import ports as module
from kernelproto.launch.address.ports import (
    address_was_taken,
    listens_at,
    release_ports,
    reserve_ports,
)
from kernelproto.launch.process import proc
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo

pytestmark = pytest.mark.usefixtures("no_leaks")

LOOPBACK = "127.0.0.1"

needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net/tcp")


class TestReservePorts:
    def test_they_are_free_and_different(self) -> None:
        ports = reserve_ports(5, LOOPBACK)
        assert len(set(ports)) == 5
        for port in ports:
            with socket.socket() as listener:
                listener.bind((LOOPBACK, port))
        release_ports(ports)

    def test_to_one_kernel_only(self, monkeypatch) -> None:
        first = reserve_ports(5, LOOPBACK)
        monkeypatch.setattr(module, "_PORTS", first)
        with pytest.raises(OSError, match=r"fewer than 1 ports .* are free"):
            reserve_ports(1, LOOPBACK)
        release_ports(first)
        assert sorted(reserve_ports(5, LOOPBACK)) == sorted(first)
        release_ports(first)

    def test_taken_ports_are_passed_over(self, monkeypatch) -> None:
        monkeypatch.setattr(module, "_PORTS", ports := reserve_ports(3, LOOPBACK))
        release_ports(ports)
        with socket.create_server((LOOPBACK, ports[0])):
            assert sorted(reserve_ports(2, LOOPBACK)) == sorted(ports[1:])
        release_ports(ports)

    def test_nothing_is_reserved_in_vain(self, monkeypatch) -> None:
        monkeypatch.setattr(module, "_PORTS", ports := reserve_ports(3, LOOPBACK))
        release_ports(ports)
        before = set(module._reserved)
        with pytest.raises(OSError, match=r"fewer than 4 ports .* are free"):
            reserve_ports(4, LOOPBACK)
        assert module._reserved == before

    def test_address_that_is_not_ours(self) -> None:
        with pytest.raises(InvalidLaunchParameter, match=r"192\.0\.2\.1.*no such address"):
            reserve_ports(5, "192.0.2.1")

    def test_two_processes_seldom_choose_the_same(self) -> None:
        """Five of ten thousand, twice: one in four hundred times has a port in common."""
        choices = []
        for _ in range(200):
            choices.append(frozenset(reserve_ports(5, LOOPBACK)))
            release_ports(list(choices[-1]))  # as if another process had
        pairs = [one & two for one, two in zip(choices[::2], choices[1::2], strict=True)]
        # With 100 pairs and this chance, more than 5 are seen in one of four million runs.
        assert sum(map(bool, pairs)) <= 5


@pytest.fixture
def info() -> Iterator[ConnectionInfo]:
    ports = reserve_ports(len(CHANNEL_NAMES), LOOPBACK)
    fields = {f"{name}_port": port for name, port in zip(CHANNEL_NAMES, ports, strict=True)}
    yield ConnectionInfo(**fields)
    release_ports(ports)


class Group:
    """A process group with a process that listens, and optionally a child that does."""

    PROGRAM = """
import os, socket, sys
ip, who, *ports = sys.argv[1:]
sockets = [socket.create_server((ip, int(port))) for port in ports]
if who != "leader":
    if os.fork():
        for listener in sockets:
            listener.close()
        os.wait()
        sys.exit()
    if who == "child in a group of its own":
        os.setpgid(0, 0)
print("listening", flush=True)
sys.stdin.read()
"""

    def __init__(self, ip: str, ports: list[int], *, who: str = "leader") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, ip, who, *map(str, ports)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout.readline() == b"listening\n"
        self.number = self._process.pid

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def group() -> Iterator:
    """Give a function that starts such a group, by default one that listens at nothing."""
    with ExitStack() as stack:

        def start(ip: str = LOOPBACK, ports: tuple[int, ...] = (), **options) -> Group:
            started = Group(ip, list(ports), **options)
            stack.callback(started.close)
            return started

        yield start


@needs_proc
class TestRunningKernel:
    def test_that_does_not_listen_yet(self, info, group) -> None:
        assert not address_was_taken(info, group().number)

    @pytest.mark.parametrize("who", ["leader", "child", "child in a group of its own"])
    @pytest.mark.parametrize("count", [2, 5])
    def test_that_listens_itself(self, info, group, who, count) -> None:
        ports = [info.port(channel) for channel in CHANNEL_NAMES]
        kernel = group(ports=ports[:count], who=who)
        assert not address_was_taken(info, kernel.number)

    def test_port_of_another_program(self, info, group) -> None:
        kernel = group(ports=[info.shell_port])
        with socket.create_server((LOOPBACK, info.hb_port)):
            assert address_was_taken(info, kernel.number)
        assert not address_was_taken(info, kernel.number)

    @pytest.mark.parametrize("address", ["0.0.0.0", "::", "::ffff:127.0.0.1"])
    def test_port_of_another_program_at_all_addresses(self, info, group, address) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as other:
            if family == socket.AF_INET6:
                other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            try:
                other.bind((address, info.hb_port))
            except OSError as error:
                pytest.skip(f"no IPv6 here: {error}")
            other.listen()
            assert address_was_taken(info, group().number)

    def test_port_of_another_program_at_another_address(self, info, group) -> None:
        with socket.create_server(("127.0.0.2", info.hb_port)):
            assert not address_was_taken(info, group().number)

    def test_kernel_at_all_addresses_with_one_port_taken(self, info, group) -> None:
        everywhere = msgspec.structs.replace(info, ip="0.0.0.0")
        with socket.create_server(("127.0.0.2", info.hb_port)):
            assert address_was_taken(everywhere, group().number)

    def test_port_with_connected_clients(self, info, group) -> None:
        kernel = group(ports=[info.shell_port])
        with socket.create_connection((LOOPBACK, info.shell_port)):
            assert not address_was_taken(info, kernel.number)

    def test_ports_forwarded_to_a_container(self, info, group) -> None:
        kernel = group()
        group(ports=[info.port(channel) for channel in CHANNEL_NAMES])
        assert not address_was_taken(info, kernel.number)

    def test_of_another_user(self, info, group, monkeypatch) -> None:
        def refuse(pid: int) -> None:
            raise PermissionError(errno.EACCES, "not yours", pid)

        monkeypatch.setattr(proc, "_open_files", refuse)  # root may read the files of all users
        with socket.create_server((LOOPBACK, info.hb_port)):
            assert not address_was_taken(info, group().number)

    def test_without_proc(self, info, group, monkeypatch) -> None:
        def refuse(*arguments: object, **options: object) -> None:
            raise FileNotFoundError

        monkeypatch.setattr(proc, "open", refuse, raising=False)
        with socket.create_server((LOOPBACK, info.hb_port)):
            assert not address_was_taken(info, group().number)


class TestEndedKernel:
    def test_free_ports(self, info) -> None:
        assert not address_was_taken(info, None)

    @pytest.mark.parametrize("listens", [True, False])
    def test_port_of_another_program(self, info, listens) -> None:
        with socket.socket() as other:
            other.bind((LOOPBACK, info.control_port))
            if listens:
                other.listen()
            assert address_was_taken(info, None)
        assert not address_was_taken(info, None)

    def test_connections_that_ended_just_now(self, info, group) -> None:
        kernel = group(ports=[info.shell_port])
        client = socket.create_connection((LOOPBACK, info.shell_port))
        kernel.close()  # closed first, so this end stays in TIME_WAIT
        client.close()
        assert not address_was_taken(info, None)


@pytest.mark.parametrize("ended", [True, False])
def test_ipc_cannot_be_taken(info, ended) -> None:
    ipc = msgspec.structs.replace(info, transport="ipc", ip="/run/kernel")
    with socket.create_server((LOOPBACK, info.hb_port)):
        assert not address_was_taken(ipc, None if ended else os.getpgid(0))


LISTENER = """
import socket, sys
listener = socket.socket(getattr(socket, sys.argv[1]))
listener.bind(("127.0.0.1", 0) if sys.argv[1] == "AF_INET" else sys.argv[2])
listener.listen()
print(repr(listener.getsockname()), flush=True)
sys.stdin.read()
"""


@needs_proc
@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
def test_process_that_listens_at_an_address(family, runtime_dir) -> None:
    path = str(runtime_dir / "kernel")
    command = [sys.executable, "-c", LISTENER, family, f"{path}-4"]
    with subprocess.Popen(
        command, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        address = ast.literal_eval(process.stdout.readline())
        ports = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}
        if family == "AF_INET":
            info = ConnectionInfo(**ports | {"control_port": address[1]}, ip="localhost")
            other = ConnectionInfo(**ports | {"control_port": address[1] % 65535 + 1})
        else:
            info = ConnectionInfo(**ports, transport="ipc", ip=path)
            other = ConnectionInfo(**ports, transport="ipc", ip=f"{path}-4")
        assert listens_at(info, process.pid)
        assert not listens_at(other, process.pid)
        assert not listens_at(info, os.getpid())
        process.stdin.close()
    if family == "AF_UNIX":
        os.unlink(address)


def test_sockets_of_another_user(monkeypatch) -> None:
    def deny(process_group: int) -> set[str]:
        raise PermissionError

    monkeypatch.setattr(module, "sockets_of_group", deny)
    info = ConnectionInfo(shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5)
    assert not listens_at(info, os.getpid())
