"""The connection to a host, with a real sshd."""

from __future__ import annotations

import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from kernelproto.ssh.connection import Connection, HostOptions
from kernelproto.ssh.failures import HostFault, RemoteHostError
from kernelproto.ssh.far_host import FarHost
from tests.ssh.sshd import Sshd

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


def folders() -> list[str]:
    own = f"kernelproto-ssh-{os.getpid()}-"
    return [entry for entry in os.listdir(tempfile.gettempdir()) if entry.startswith(own)]


def master_of(connection: Connection) -> int:
    assert connection._master is not None
    return connection._master.pid


async def until_ended(pid: int) -> None:
    """Wait until a process has ended; init reaps it some time later."""
    with anyio.fail_after(GUARD_SECONDS):
        while is_running(pid):  # noqa: ASYNC110 - no event tells of its end
            await anyio.sleep(0.01)


def is_running(pid: int) -> bool:
    with suppress(OSError):  # the process has ended
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_kernel_types_of_a_host(sshd: Sshd) -> None:
    before = folders()
    connection = Connection("far", sshd.options)
    with anyio.fail_after(GUARD_SECONDS):
        async with connection.held():
            far = FarHost.of("far", await connection.ask("kernels"))
            assert len(folders()) == len(before) + 1
            master = master_of(connection)
    assert [spec.display_name for spec in far.kernelspecs() if spec.name == "python3"] == ["Far"]
    assert far.environ["HOME"] == str(sshd.home)
    assert folders() == before
    await until_ended(master)


@pytest.mark.parametrize(
    ("host", "change", "fault"),
    [
        ("silent", {}, "unreachable"),
        ("no-such-host.invalid", {}, "unknown_host"),
        ("stranger", {}, "key_refused"),
        ("far", {"python": "no-such-python"}, "no_python"),
        ("far", {"ssh": ("no-such-ssh",)}, "other"),
    ],
)
async def test_errors_by_name(sshd: Sshd, host: str, change, fault: HostFault) -> None:
    options = HostOptions(**{"python": sshd.options.python, "ssh": sshd.options.ssh, **change})
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(RemoteHostError) as caught:
        async with Connection(host, options).held() as connection:
            await connection.ask("kernels")
    assert (caught.value.fault, caught.value.host) == (fault, host)


@pytest.mark.parametrize(
    ("known", "fault"), [(False, "host_key_unknown"), (True, "host_key_changed")]
)
async def test_host_keys_are_checked(sshd: Sshd, known: bool, fault: HostFault) -> None:
    sshd.know((sshd.folder / "other_key.pub").read_text() if known else "")
    try:
        with anyio.fail_after(GUARD_SECONDS), pytest.raises(RemoteHostError) as caught:
            async with Connection("far", sshd.options).held() as connection:
                await connection.open()
    finally:
        sshd.know(sshd.host_key)
    assert caught.value.fault == fault


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
async def test_lost_master_is_replaced(sshd: Sshd, signum: int, monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.ssh.connection._CONTROL_SECONDS", 1.0)
    with anyio.fail_after(GUARD_SECONDS):
        async with Connection("far", sshd.options).held() as connection:
            await connection.open()
            master = master_of(connection)
            os.kill(master, signum)
            assert "kernels" in await connection.ask("kernels")
            assert master_of(connection) != master
    await until_ended(master)


async def test_socket_is_forwarded(sshd: Sshd) -> None:
    path = str(sshd.home / "echo")
    program = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('echo'); s.listen();"
        "print('listens', flush=True); c = s.accept()[0]; c.sendall(c.recv(99))"
    )
    with anyio.fail_after(GUARD_SECONDS):
        async with Connection("far", sshd.options).held() as connection:
            await connection.open()
            command = [*sshd.options.ssh, "far", f'exec {sshd.options.python} -c "{program}"']
            async with await anyio.open_process(command, stderr=None) as far:
                assert far.stdout is not None
                assert await far.stdout.receive() == b"listens\n"
                async with await connection.connect(path) as stream:
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello"
                await far.wait()
    os.unlink(path)


async def test_folder_of_a_killed_program_is_removed(sshd: Sshd) -> None:
    left = tempfile.mkdtemp(prefix=f"kernelproto-ssh-{2**22 + 1}-")
    async with Connection("far", sshd.options).held() as connection:
        await connection.open()
    assert os.path.basename(left) not in os.listdir(tempfile.gettempdir())
