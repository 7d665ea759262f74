from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from kernelproto.launch import own_files as module
from kernelproto.launch.own_files import (
    LONGEST_FILE,
    folder_fault,
    is_own_file,
    leave_alone,
    read_own_file,
    read_regular_file,
)

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"text")
    return path


def odd(folder: Path, kind: str) -> str:
    path = folder / kind
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "zero":
            path.symlink_to("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        case "long":
            path.write_bytes(bytes(LONGEST_FILE + 1))
        case "loop":
            path.symlink_to(path)
    return str(path)


KINDS = ["pipe", "folder", "zero", "socket", "long", "loop", "missing"]


@pytest.mark.parametrize("read", [read_regular_file, read_own_file])
@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_not_read(tmp_path, kind, read) -> None:
    with pytest.raises(OSError, match=kind):
        read(odd(tmp_path, kind))


@pytest.mark.parametrize("read", [read_regular_file, read_own_file])
def test_files_that_are_read(file, read) -> None:
    assert read(str(file)) == b"text"
    file.write_bytes(bytes(LONGEST_FILE))
    assert len(read(str(file))) == LONGEST_FILE
    with pytest.raises(ValueError, match=r"null (byte|character)"):
        read(f"{file}\0")


def test_links(file, tmp_path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_regular_file(str(link)) == b"text"
    with pytest.raises(OSError, match="it is a symbolic link"):
        read_own_file(str(link))


@pytest.mark.parametrize("kind", [*sorted(set(KINDS) - {"long"}), "\0"])
def test_paths_that_are_no_own_files(tmp_path, kind) -> None:
    assert not is_own_file(odd(tmp_path, kind))


def test_file_of_another_user(file, monkeypatch) -> None:
    assert is_own_file(str(file))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert not is_own_file(str(file))
    with pytest.raises(OSError, match=f"another user .uid {os.getuid()}."):
        read_own_file(str(file))
    assert read_regular_file(str(file)) == b"text"


def test_folders(file, tmp_path) -> None:
    for private in (True, False):
        assert folder_fault(str(tmp_path / "missing"), private=private) is None
        assert folder_fault(str(tmp_path), private=private) is None
        assert "is not a folder" in (folder_fault(str(file), private=private) or "")
        tmp_path.chmod(0o720)
        assert f"chmod go-w {tmp_path}" in (folder_fault(str(tmp_path), private=private) or "")
        tmp_path.chmod(0o700)
    link = file.with_name("link")
    link.symlink_to(tmp_path)
    assert folder_fault(str(link), private=False) is None
    assert "is not a folder" in (folder_fault(str(link), private=True) or "")
    tmp_path.chmod(0o1777)
    assert folder_fault(str(tmp_path), private=False) is None
    assert folder_fault(str(tmp_path), private=True) is not None


def test_folder_of_another_user(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "another user" in (folder_fault(str(tmp_path), private=True) or "")
    if os.getuid() == 0:
        assert folder_fault(str(tmp_path), private=False) is None
    monkeypatch.setattr(module, "_SUPERUSER", -1)
    assert "another user" in (folder_fault(str(tmp_path), private=False) or "")
    monkeypatch.setattr(os, "name", "nt")
    assert folder_fault(str(tmp_path), private=True) is None
    monkeypatch.undo()


def test_each_path_is_named_once(monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "_logged", set())
    monkeypatch.setattr(module, "_MOST_LOGGED", 2)
    for path in ("/a", "/b", "/a", "/c"):
        leave_alone(path, "it is odd")
    assert [record.getMessage() for record in caplog.records] == [
        "/a is left alone: it is odd",
        "/b is left alone: it is odd",
    ]
