"""Finding a connection file by path, name, pattern or id."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernelproto.exceptions import DiscoveryError, RemoteProtocolError
from kernelproto.launch.leftovers.running import read_connection_file
from kernelproto.wire import ConnectionInfo


def write(path: Path, kernel_name: str, *, age: float = 0) -> Path:
    info = ConnectionInfo(
        shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5, kernel_name=kernel_name
    )
    path.write_bytes(info.to_json())
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


@pytest.fixture
def files(runtime_dir: Path, tmp_path: Path) -> Path:
    write(runtime_dir / "kernel-aaa.json", "older", age=10)
    write(runtime_dir / "kernel-bbb.json", "newer")
    write(runtime_dir / "other.json", "other", age=-10)
    (runtime_dir / "kernel-folder.json").mkdir()
    return write(tmp_path / "mine.json", "mine")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("kernel-aaa.json", "older"),
        ("kernel-*.json", "newer"),
        ("aaa", "older"),
        ("kernel-", "newer"),
    ],
)
def test_in_the_runtime_folder(files: Path, name: str, found: str) -> None:
    assert read_connection_file(name).kernel_name == found


def test_by_its_path(files: Path) -> None:
    assert read_connection_file(str(files)).kernel_name == "mine"


@pytest.mark.parametrize("kind", ["pipe", "zero", "link", "loop"])
def test_files_that_are_skipped_in_the_runtime_folder(files: Path, runtime_dir: Path, kind) -> None:
    path = runtime_dir / "kernel-ccc.json"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "link":
            path.symlink_to(files)
        case "loop":
            path.symlink_to(path)
    assert read_connection_file("kernel-*.json").kernel_name == "newer"
    with pytest.raises(DiscoveryError, match="no connection file"):
        read_connection_file("ccc")
    if kind != "link" and path.exists():
        with pytest.raises(DiscoveryError, match="not a regular file"):
            read_connection_file(str(path))


def test_link_that_is_named_by_its_path(files: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(files)
    assert read_connection_file(str(link)).kernel_name == "mine"


def test_odd_names(files: Path) -> None:
    for name in ("\0", "a\0b", "x" * 5000):
        with pytest.raises(DiscoveryError, match="no connection file"):
            read_connection_file(name)


def test_error_names_file_and_folder(runtime_dir: Path) -> None:
    with pytest.raises(DiscoveryError, match=r"'nowhere\.json'") as caught:
        read_connection_file("nowhere.json")

    assert str(runtime_dir) in str(caught.value)


def test_unreadable_and_invalid_files(runtime_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match="cannot read"):
        read_connection_file(str(tmp_path))
    (tmp_path / "none.json").write_text("{")
    with pytest.raises(RemoteProtocolError, match="not a connection file"):
        read_connection_file(str(tmp_path / "none.json"))
