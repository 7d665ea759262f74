"""Removal of folders, with real files."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from kernelproto.folder_removal import remove_folder

# More folders than are open at the same time.
DEPTH = 200


def test_everything_in_a_folder_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    (kept := tmp_path / "kept").mkdir()
    (kept / "file").touch()
    folder = tmp_path / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    for name in ("file", "new\nline", "a/file", "a/b/file"):
        (folder / name).touch()
    for name in ("link", "a/link"):
        (folder / name).symlink_to(kept)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe")
    remove_folder(str(folder))
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]


@pytest.mark.skipif(sys.platform == "win32", reason="it limits the length of paths")
def test_a_folder_of_any_depth_is_removed(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("in", dir_fd=descriptor)
        inner = os.open("in", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        remove_folder("in", parent=parent)
    finally:
        os.close(parent)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such links")
def test_a_link_or_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "file").touch()
    for name, error in (("link", NotADirectoryError), ("file", NotADirectoryError)):
        with pytest.raises(error):
            remove_folder(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        remove_folder(str(tmp_path / "missing"))
    assert sorted(os.listdir(tmp_path)) == ["file", "kept", "link"]


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may remove every file"
)
def test_the_rest_is_removed_if_a_folder_cannot_be(tmp_path: Path) -> None:
    for name in ("a", "locked", "z"):
        (tmp_path / "folder" / name / "in").mkdir(parents=True)
    (tmp_path / "folder" / "locked").chmod(0)
    with pytest.raises(PermissionError):
        remove_folder(str(tmp_path / "folder"))
    assert os.listdir(tmp_path / "folder") == ["locked"]
    (tmp_path / "folder" / "locked").chmod(0o700)
    shutil.rmtree(tmp_path / "folder")
