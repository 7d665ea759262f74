from __future__ import annotations

import os
import tempfile

import pytest

from kernelproto.launch.address import paths
from kernelproto.launch.address.paths import (
    choose_socket_folder,
    connection_file_name,
    is_connection_draft,
    is_record_draft,
    is_text,
    kernel_of_record,
    runtime_folder,
    socket_folders,
)

KERNEL_ID = "11111111-2222-4333-8444-555555555555"


def test_runtime_folder_is_absolute(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "runtime")
    assert runtime_folder() == str(tmp_path / "runtime")


@pytest.fixture
def without_home(monkeypatch, tmp_path) -> str:
    """Have a home folder in which no folder can be made; return the temporary folder."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.touch()
    temporary.mkdir()
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return str(temporary)


def test_runtime_folder_without_a_usable_home(without_home: str) -> None:
    folder = runtime_folder()
    assert folder == os.path.join(without_home, f"kernelproto-{os.geteuid()}")
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert runtime_folder() == folder


def test_runtime_folder_that_is_named_has_no_substitute(without_home: str, monkeypatch) -> None:
    named = os.path.join(os.environ["HOME"], "runtime")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", named)
    assert runtime_folder() == named
    assert os.listdir(without_home) == []


@pytest.mark.parametrize("kind", ["link", "file", "open"])
def test_substitute_that_is_not_private_is_not_used(without_home: str, kind: str) -> None:
    folder = os.path.join(without_home, f"kernelproto-{os.geteuid()}")
    if kind == "link":
        os.symlink(without_home, folder)
    elif kind == "file":
        open(folder, "w").close()
    else:
        os.mkdir(folder)
        os.chmod(folder, 0o777)
    assert runtime_folder().startswith(os.environ["HOME"])


def test_records_and_drafts() -> None:
    assert kernel_of_record(f"{KERNEL_ID}.json") == KERNEL_ID
    assert kernel_of_record(f"{KERNEL_ID}.json.new") == KERNEL_ID
    assert is_record_draft(f"{KERNEL_ID}.json.new")
    assert not is_record_draft(f"{KERNEL_ID}.json")
    assert is_connection_draft(connection_file_name(KERNEL_ID) + ".new")
    assert not is_connection_draft(connection_file_name(KERNEL_ID))


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".json",
        "one.json",
        f"{KERNEL_ID}",
        f"{KERNEL_ID}.json.new.new",
        f"{KERNEL_ID}.json\n",
        KERNEL_ID.replace("1", "\u0661") + ".json",
        f"{KERNEL_ID.replace('1', 'A')}.json",
        f"../{KERNEL_ID}.json",
    ],
)
def test_names_of_other_files(name) -> None:
    assert kernel_of_record(name) is None
    assert not is_record_draft(name)
    assert not is_connection_draft(f"kernel-{name}")


def test_folder_of_sockets(runtime_dir, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/short")
    name = f"kernel-{KERNEL_ID[:8]}"
    assert socket_folders(KERNEL_ID, "/runtime") == [f"/runtime/{name}", f"/tmp/short/{name}"]
    assert choose_socket_folder(KERNEL_ID) == str(runtime_dir / name)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime_dir / ("x" * 100)))
    assert choose_socket_folder(KERNEL_ID) == f"/tmp/short/{name}"
    for folder in ("/tmp/" + "x" * 100, "/tmp/\udce9"):
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert choose_socket_folder(KERNEL_ID) is None


def test_no_temporary_folder(monkeypatch) -> None:
    def gettempdir() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(paths.tempfile, "gettempdir", gettempdir)
    assert len(socket_folders(KERNEL_ID, "/runtime")) == 1


def test_text() -> None:
    assert is_text("/caf\u00e9")
    assert not is_text(os.fsdecode(b"/caf\xe9"))
