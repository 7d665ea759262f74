"""The rights of another user, for one thread; most tests need the rights of root."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the calls are those of Linux", allow_module_level=True)

from kernelproto.file_owner import Owner, rights_of

ADA = Owner(2_000_000_000, 2_000_000_001)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    os.chown(folder, *ADA)
    return folder


@needs_root
def test_a_new_file_belongs_to_the_owner(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with rights_of(ADA):
            os.close(os.open("file", os.O_CREAT, dir_fd=descriptor))
        os.close(os.open("other", os.O_CREAT, dir_fd=descriptor))
    finally:
        os.close(descriptor)
    made, other = (os.stat(folder / name) for name in ("file", "other"))
    assert (made.st_uid, made.st_gid) == ADA
    assert other.st_uid == 0


@needs_root
def test_only_the_files_of_the_owner_can_be_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with rights_of(ADA), pytest.raises(PermissionError):
            os.open("secret", os.O_RDONLY, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    assert secret.read_text() == ""


@needs_root
def test_rights_return_after_an_error_and_other_threads_keep_theirs(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1")
    secret.chmod(0o600)
    found: list[str] = []
    may_read = threading.Event()

    def read() -> None:
        may_read.wait()
        found.append(secret.read_text())

    thread = threading.Thread(target=read)
    thread.start()
    with suppress(ZeroDivisionError), rights_of(ADA):
        may_read.set()
        thread.join()
        raise ZeroDivisionError
    assert found == ["1"]
    assert secret.read_text() == "1"


def test_without_an_owner_nothing_changes(tmp_path: Path) -> None:
    with rights_of(None):
        (tmp_path / "file").touch()
    assert (tmp_path / "file").stat().st_uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may act as another user")
def test_an_ordinary_user_is_refused() -> None:
    with pytest.raises(PermissionError, match="only a process of root"), rights_of(ADA):
        pass
