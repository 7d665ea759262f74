from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kernelproto.file_owner import Owner
from kernelproto.mcp.folders import File, Folders
from kernelproto.mcp.limits import Limits, Refused
from kernelproto.mcp.root import open_root, remove_abandoned

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs descriptors of folders")

LIMITS = Limits(file_bytes=100, folder_bytes=150, files=3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    return root


@pytest.fixture
def folders(root: Path) -> Iterator[Folders]:
    folders = Folders(str(root), LIMITS)
    folders.make("one")
    yield folders
    folders.close()


def test_file_goes_in_and_out(folders: Folders) -> None:
    folders.write("one", "a/b.txt", b"0123456789")

    assert folders.read("one", "a/b.txt", offset=2, length=3) == (b"234", 10)
    assert folders.read("one", "a/b.txt", offset=20, length=3) == (b"", 10)
    assert folders.files("one") == ([File("a/b.txt", 10)], False)


def test_write_replaces_a_file(folders: Folders, root: Path) -> None:
    folders.write("one", "a", b"1")
    folders.write("one", "a", b"22")
    assert os.listdir(root / "one") == ["a"]
    assert folders.read("one", "a", length=9).data == b"22"


def test_conversations_are_apart(folders: Folders) -> None:
    folders.make("two")
    folders.write("one", "a", b"1")
    with pytest.raises(Refused, match="'a' does not exist"):
        folders.read("two", "a", length=9)


@pytest.mark.parametrize("name", ["link", "up/secret", "root/etc/hostname"])
def test_symbolic_links_are_not_followed(folders: Folders, root: Path, name: str) -> None:
    (root / "one" / "link").symlink_to(root.parent / "secret")
    (root / "one" / "up").symlink_to(root.parent)
    (root / "one" / "root").symlink_to("/")
    with pytest.raises(Refused, match="or a symbolic link"):
        folders.read("one", name, length=9)
    assert folders.files("one") == ([], False)


def test_write_replaces_a_link_and_not_its_target(folders: Folders, root: Path) -> None:
    (root / "one" / "link").symlink_to(root.parent / "secret")
    (root / "one" / "up").symlink_to(root.parent)
    folders.write("one", "link", b"new")
    with pytest.raises(Refused, match="symbolic link"):
        folders.write("one", "up/secret", b"new")
    assert (root.parent / "secret").read_text() == "secret"
    assert not (root / "one" / "link").is_symlink()


def test_folder_that_became_a_link_is_refused(folders: Folders, root: Path) -> None:
    (root / "one").rmdir()
    (root / "one").symlink_to(root.parent)
    for use in (
        lambda: folders.read("one", "secret", length=9),
        lambda: folders.write("one", "secret", b""),
        lambda: folders.files("one"),
        lambda: folders.make("one"),
    ):
        with pytest.raises(Refused, match="symbolic link"):
            use()
    folders.clear("one")
    assert (root.parent / "secret").read_text() == "secret"


def test_pipe_and_folder_are_no_files(folders: Folders, root: Path) -> None:
    os.mkfifo(root / "one" / "pipe")
    (root / "one" / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(Refused, match="not a regular file"):
            folders.read("one", name, length=9)
    with pytest.raises(Refused, match="'folder' cannot be used"):
        folders.write("one", "folder", b"")
    assert sorted(os.listdir(root / "one")) == ["folder", "pipe"]


def test_limits_of_files(folders: Folders) -> None:
    with pytest.raises(Refused, match="at most 100 are allowed"):
        folders.write("one", "a", b"." * 101)
    folders.write("one", "a", b"." * 100)
    with pytest.raises(Refused, match="would exceed 150 bytes"):
        folders.write("one", "b", b"." * 51)
    folders.write("one", "a", b"." * 99)  # which it replaces
    folders.write("one", "b", b"")
    folders.write("one", "c", b"")
    with pytest.raises(Refused, match="has 3 files already"):
        folders.write("one", "d", b"")


def test_list_is_bounded(folders: Folders, root: Path) -> None:
    for name in "abcde":
        (root / "one" / name).touch()
    files, more = folders.files("one")
    assert len(files) == 3
    assert more


def test_entries_that_are_no_files_are_bounded_too(
    folders: Folders, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "one" / "file").touch()
    for number in range(4):
        (root / "one" / f"folder{number}").mkdir()
        (root / "one" / f"link{number}").symlink_to("file")
        (root / "one" / f"line\n{number}").touch()
    assert folders.files("one") == ([File("file", 0)], False)
    monkeypatch.setattr("kernelproto.confined_folder.MOST_ENTRIES", 12)
    assert folders.files("one")[1]
    with pytest.raises(Refused, match="files already"):
        folders.write("one", "more", b"")


def test_folders_of_any_depth_are_removed(folders: Folders, root: Path) -> None:
    descriptor = os.open(root / "one", os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("in", dir_fd=descriptor)
        inner = os.open("in", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    folders.clear("one")
    assert os.listdir(root) == []


def test_removed_folder_takes_its_files_along(folders: Folders, root: Path) -> None:
    folders.write("one", "a/b", b"1")
    folders.remove("one", "a/b")
    folders.remove("one", "a/b")
    assert folders.exists("one")
    folders.clear("one")
    folders.clear("one")
    assert not folders.exists("one")
    assert os.listdir(root) == []


def test_temporary_root_is_removed() -> None:
    with open_root(None) as root:
        Path(root, "file").touch()
    assert not Path(root).exists()


def test_root_of_the_user_is_kept(tmp_path: Path) -> None:
    with open_root(str(tmp_path / "a" / "b")) as root:
        Path(root, "file").touch()
    assert Path(root, "file").exists()


def test_only_abandoned_roots_are_removed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (abandoned := tmp_path / "kernelproto-mcp-abandoned").mkdir()
    (abandoned / ".lock").touch()
    (young := tmp_path / "kernelproto-mcp-young").mkdir()
    (other := tmp_path / "other").mkdir()
    with open_root(None) as locked:
        for folder in (abandoned, locked, other):
            os.utime(folder, (0, time.time() - 3600))
        remove_abandoned()
        assert sorted(tmp_path.iterdir()) == sorted([Path(locked), other, young])


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can give files to another user"
)
def test_files_belong_to_the_owner(tmp_path: Path) -> None:
    with closing(Folders(str(tmp_path), Limits(), owner=12345)) as folders:
        folders.make("c")
        folders.write("c", "a/b.txt", b"")
    made = [tmp_path / name for name in ("c", "c/a", "c/a/b.txt")]
    assert [(path.stat().st_uid, path.stat().st_gid) for path in made] == [(12345, 12345)] * 3


OWNER = Owner(2_000_000_000, 2_000_000_000)


@pytest.fixture
def in_home(tmp_path: Path) -> Iterator[Folders]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can act as another user, on Linux")
    home = tmp_path / "home"
    home.mkdir(0o700)
    os.chown(home, *OWNER)
    folders = Folders(str(home), Limits(), inside=("conversations",), rights=OWNER)
    yield folders
    folders.close()


def test_files_in_a_home_folder_belong_to_its_owner(in_home: Folders, tmp_path: Path) -> None:
    in_home.make("c")
    in_home.write("c", "a/b.txt", b"1")
    folder = tmp_path / "home" / "conversations" / "c"
    assert in_home.path("c") == str(folder)
    for path in (folder.parent, folder, folder / "a", folder / "a" / "b.txt"):
        assert path.stat().st_uid == OWNER.uid
    assert in_home.files("c") == ([File("a/b.txt", 1)], False)
    in_home.clear("c")
    assert os.listdir(folder.parent) == []


def test_a_home_folder_can_be_emptied_by_its_owner(in_home: Folders, tmp_path: Path) -> None:
    in_home.make("c")
    shutil.rmtree(tmp_path / "home" / "conversations")
    assert not in_home.exists("c")
    in_home.make("c")
    assert in_home.exists("c")


def test_files_of_others_in_a_home_folder_are_refused(in_home: Folders, tmp_path: Path) -> None:
    in_home.make("c")
    folder = tmp_path / "home" / "conversations" / "c"
    secret = folder / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)
    (folder / "closed").mkdir(0o700)
    for use in (
        lambda: in_home.read("c", "secret", length=9),
        lambda: in_home.write("c", "closed/new", b"1"),
        lambda: in_home.remove("c", "closed/new"),
    ):
        with pytest.raises(Refused, match="Permission denied"):
            use()


def test_a_link_in_a_home_folder_leads_nowhere(in_home: Folders, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "c").mkdir(parents=True)
    (other / "c" / "secret").write_text("of another user")
    (tmp_path / "home" / "conversations").symlink_to(other)
    assert not in_home.exists("c")
    for use in (
        lambda: in_home.make("c"),
        lambda: in_home.make("d"),
        lambda: in_home.read("c", "secret", length=9),
        lambda: in_home.files("c"),
    ):
        with pytest.raises(Refused, match="symbolic link"):
            use()
    in_home.clear("c")
    assert (other / "c" / "secret").exists()
