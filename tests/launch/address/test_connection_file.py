from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import traceback
import uuid
from pathlib import Path

import pytest

from kernelproto.exceptions import InvalidLaunchParameter, LaunchError
from kernelproto.launch.address import connection_file as module
from kernelproto.launch.address import paths
from kernelproto.launch.address import ports as ports_module
from kernelproto.launch.address.connection_file import LOOPBACK, ConnectionFile, new_registration
from kernelproto.launch.leftovers.running import read_connection_file
from kernelproto.transport import curve
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def ports(info: ConnectionInfo) -> set[int]:
    return {info.port(channel) for channel in CHANNEL_NAMES}


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_file_has_the_contents_of_info(runtime_dir, transport) -> None:
    file = ConnectionFile.create("one", transport=transport, kernel_name="spec/one")
    assert Path(file.path) == runtime_dir / "kernel-one.json"
    assert ConnectionInfo.from_json(Path(file.path).read_bytes()) == file.info
    assert (file.info.transport, file.info.kernel_name) == (transport, "spec/one")
    assert len(ports(file.info)) == len(CHANNEL_NAMES)
    file.remove()


def test_every_kernel_has_a_key_of_its_own() -> None:
    files = [ConnectionFile.create(name, transport="ipc") for name in ("one", "two")]
    keys = {file.info.key for file in files}
    assert len(keys) == 2
    assert {len(bytes.fromhex(key)) for key in keys} == {32}
    for file in files:
        file.remove()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_user_can_read(runtime_dir, umask) -> None:
    runtime_dir.rmdir()
    before = os.umask(umask)
    try:
        file = ConnectionFile.create("one", transport="ipc")
    finally:
        os.umask(before)
    assert mode(runtime_dir) == 0o700
    assert mode(file.path) == 0o600
    assert mode(Path(file.info.ip).parent) == 0o700
    file.remove()


def test_mode_of_an_existing_folder_is_left_alone(runtime_dir) -> None:
    runtime_dir.chmod(0o755)
    ConnectionFile.create("one", transport="tcp").remove()
    assert mode(runtime_dir) == 0o755


def test_tcp_ports_can_be_bound() -> None:
    file = ConnectionFile.create("one", transport="tcp")
    for channel in CHANNEL_NAMES:
        with socket.socket() as listener:
            listener.bind((file.info.ip, file.info.port(channel)))
    file.remove()


def test_kernel_at_another_address() -> None:
    file = ConnectionFile.create("one", transport="tcp", ip="127.0.0.2")
    assert file.info.endpoint("shell").startswith("tcp://127.0.0.2:")
    file.remove()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_keys_for_encryption(transport) -> None:
    files = [
        ConnectionFile.create(name, transport=transport, encrypted=True) for name in ("one", "two")
    ]
    written = [ConnectionInfo.from_json(Path(file.path).read_bytes()) for file in files]
    assert written == [file.info for file in files]
    keys = {key for info in written for key in (info.curve_publickey, info.curve_secretkey)}
    assert len(keys) == 4
    for file in files:
        file.remove()


def test_ipc_endpoints_are_sockets_in_a_private_folder(runtime_dir) -> None:
    file = ConnectionFile.create("one", transport="ipc")
    endpoints = {file.info.endpoint(channel) for channel in CHANNEL_NAMES}
    assert len(endpoints) == len(CHANNEL_NAMES)
    for endpoint in endpoints:
        path = Path(endpoint.removeprefix("ipc://"))
        assert path.parent.parent == runtime_dir
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    file.remove()
    assert list(runtime_dir.iterdir()) == []


def test_long_runtime_folder_puts_sockets_into_the_temporary_folder(
    runtime_dir, monkeypatch
) -> None:
    long = runtime_dir / ("x" * 100)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(long))
    file = ConnectionFile.create("one", transport="ipc")
    folder = Path(file.info.ip).parent
    assert Path(file.path).parent == long
    assert folder.parent == Path(tempfile.gettempdir())
    assert mode(folder) == 0o700
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(file.info.endpoint("shell").removeprefix("ipc://"))
    file.remove()
    assert not folder.exists()
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("too_long", [False, True])
def test_longest_socket_path(runtime_dir, monkeypatch, too_long) -> None:
    end = len("/kernel-12345678/kernel-5")
    limit = paths._LONGEST_SOCKET_PATH
    padding = limit - len(str(runtime_dir)) - len("/") - end + too_long
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime_dir / ("x" * padding)))
    file = ConnectionFile.create("12345678-one", transport="ipc")
    path = file.info.endpoint("hb").removeprefix("ipc://")
    assert path.startswith(str(runtime_dir)) is not too_long
    assert len(path) <= limit
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    file.remove()


def test_no_folder_is_short_enough(runtime_dir, monkeypatch) -> None:
    long = runtime_dir / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(LaunchError, match="TMPDIR"):
        ConnectionFile.create("one", transport="ipc")
    assert list(long.iterdir()) == []


def test_relative_runtime_folder(runtime_dir, monkeypatch) -> None:
    monkeypatch.chdir(runtime_dir)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "here")
    file = ConnectionFile.create("one", transport="ipc")
    assert file.path == str(runtime_dir / "here" / "kernel-one.json")
    assert file.info.ip.startswith(str(runtime_dir / "here"))
    file.remove()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_remove_can_be_called_again(runtime_dir, transport) -> None:
    file = ConnectionFile.create("one", transport=transport)
    file.remove()
    file.remove()
    assert list(runtime_dir.iterdir()) == []
    assert ports_module._reserved.isdisjoint(ports(file.info))


def test_remove_when_the_files_are_missing() -> None:
    file = ConnectionFile.create("one", transport="ipc")
    os.unlink(file.path)
    os.rmdir(os.path.dirname(file.info.ip))
    file.remove()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_nothing_is_left_of_a_failure(runtime_dir, no_leaks, transport) -> None:
    reserved = set(ports_module._reserved)
    runtime_dir.joinpath("kernel-one.json").mkdir()
    with pytest.raises(LaunchError, match="JUPYTER_RUNTIME_DIR") as caught:
        ConnectionFile.create("one", transport=transport)
    assert isinstance(caught.value.__cause__, OSError)
    runtime_dir.joinpath("kernel-one.json").rmdir()
    assert ports_module._reserved == reserved


def test_runtime_folder_cannot_be_made(runtime_dir, monkeypatch) -> None:
    file = runtime_dir / "file"
    file.touch()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(file))
    with pytest.raises(LaunchError, match="JUPYTER_RUNTIME_DIR"):
        ConnectionFile.create("one", transport="tcp")


def test_path_that_is_not_utf8(runtime_dir, monkeypatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime_dir) + os.fsdecode(b"/\xff"))
    file = ConnectionFile.create("one", transport="ipc")
    assert file.socket_folder == os.path.join(tempfile.gettempdir(), "kernel-one")
    assert read_connection_file(file.path) == file.info
    file.remove()
    monkeypatch.setattr(tempfile, "tempdir", os.path.dirname(file.path))
    with pytest.raises(LaunchError, match="not valid UTF-8"):
        ConnectionFile.create("one", transport="ipc")
    os.rmdir(os.path.dirname(file.path))


def test_full_disk(runtime_dir) -> None:
    program = """
import resource
from kernelproto.exceptions import LaunchError
from kernelproto.launch.address.connection_file import ConnectionFile, new_registration
whole = ConnectionFile.create("whole", transport="ipc")
registration = new_registration("one", ip="127.0.0.1", encrypted=False, kernel_name="")
file = ConnectionFile.create_for_registration(registration, ip="127.0.0.1", port=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for write in (
    lambda: ConnectionFile.create("two", transport="ipc"),
    lambda: ConnectionFile.create_for_registration(registration, ip="127.0.0.1", port=1),
    lambda: file.complete(whole.info),
):
    try:
        write()
    except LaunchError as error:
        print("cannot make the connection file" in str(error))
file.remove()
whole.remove()
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == [b"True"] * 3
    assert list(runtime_dir.iterdir()) == []


def test_no_free_ports_are_a_launch_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports_module, "_PORTS", range(port, port + 1))
        with pytest.raises(LaunchError, match=r"fewer than 5 ports .* are free"):
            ConnectionFile.create("one", transport="tcp")


def test_address_of_another_machine(runtime_dir) -> None:
    with pytest.raises(InvalidLaunchParameter, match=r"192\.0\.2\.1"):
        ConnectionFile.create("one", transport="tcp", ip="192.0.2.1")
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_no_error_shows_a_key(runtime_dir, monkeypatch, transport) -> None:
    keys = []

    def remember(keep):
        def wrapper(*arguments):
            made = keep(*arguments)
            keys.extend([made] if isinstance(made, str) else made)
            return made

        return wrapper

    monkeypatch.setattr(module, "_new_key", remember(module._new_key))
    monkeypatch.setattr(curve, "new_curve_keys", remember(curve.new_curve_keys))
    runtime_dir.joinpath("kernel-one.json").mkdir()
    with pytest.raises(LaunchError) as caught:
        ConnectionFile.create("one", transport=transport, encrypted=True)
    # Some tools show the variables of a traceback as well; the first frame is that of this test.
    caught.value.__traceback__ = caught.value.__traceback__.tb_next
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    text = "".join(shown.format())
    assert len(keys) == 3
    assert [key for key in keys if key[:6] in text] == []


class TestRegistration:
    INFO = ConnectionInfo(
        shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5, key="secret"
    )

    def create(self) -> ConnectionFile:
        registration = new_registration("one", ip=LOOPBACK, encrypted=True, kernel_name="spec/one")
        return ConnectionFile.create_for_registration(registration, ip=LOOPBACK, port=51587)

    def test_becomes_a_connection_file(self, runtime_dir) -> None:
        file = self.create()
        assert file.path == str(runtime_dir / "kernel-one.json")
        assert mode(file.path) == 0o600
        fields = json.loads(Path(file.path).read_text())
        assert (fields["kernel_id"], fields["kernel_name"]) == ("one", "spec/one")
        assert (fields["registration_ip"], fields["registration_port"]) == (LOOPBACK, "51587")
        assert len(bytes.fromhex(fields["key"])) == 32
        with pytest.raises(LookupError):
            _ = file.info
        file.complete(self.INFO)
        assert file.info == self.INFO
        assert ConnectionInfo.from_json(Path(file.path).read_bytes()) == self.INFO
        assert mode(file.path) == 0o600
        assert os.listdir(runtime_dir) == ["kernel-one.json"]
        file.remove()
        assert os.listdir(runtime_dir) == []

    def test_readers_never_get_half_of_the_file(self) -> None:
        file = self.create()
        with open(file.path, "rb") as before:
            file.complete(self.INFO)
            assert b"registration_port" in before.read()
        file.remove()

    def test_connection_file_that_cannot_be_written(self, runtime_dir) -> None:
        file = self.create()
        runtime_dir.joinpath("kernel-one.json.new").mkdir()
        with pytest.raises(LaunchError, match="JUPYTER_RUNTIME_DIR"):
            file.complete(self.INFO)
        file.remove()
        assert os.listdir(runtime_dir) == ["kernel-one.json.new"]

    def test_registration_file_that_cannot_be_written(self, runtime_dir) -> None:
        runtime_dir.joinpath("kernel-one.json").mkdir()
        with pytest.raises(LaunchError, match="JUPYTER_RUNTIME_DIR"):
            self.create()


def test_sockets_of_a_given_file_are_private_in_the_folder_of_the_kernel_only(tmp_path) -> None:
    kernel_id = str(uuid.uuid4())
    made = ConnectionFile.create(kernel_id, transport="ipc")

    given = ConnectionFile.given(kernel_id, made.path)
    given.remove()
    assert (given.socket_folder, given.sockets) == (made.socket_folder, made.sockets)
    assert os.path.exists(str(made.socket_folder))

    entries = json.loads(Path(made.path).read_bytes())
    Path(made.path).write_text(json.dumps({**entries, "ip": str(tmp_path / "kernel")}))
    elsewhere = ConnectionFile.given(kernel_id, made.path)
    assert (elsewhere.socket_folder, elsewhere.sockets) == (None, [])
    made.remove()
