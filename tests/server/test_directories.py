"""The working directory for a client's kernel."""

from __future__ import annotations

import os
import threading

import anyio
import pytest
from starlette.exceptions import HTTPException

from kernelproto.confined_folder import HAS_CONFINED_FOLDERS, Refused
from kernelproto.server import directories
from kernelproto.server.directories import (
    check_path,
    find_folder,
    gateway_path,
    open_folder,
    working_directory,
)


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("", "."),
        ("a.ipynb", "."),
        ("sub", "sub"),
        ("sub/a.ipynb", "sub"),
        ("/sub/a.ipynb", "sub"),
        ("sub/none/none/a.ipynb", "sub"),
        ("sub/../sub", "sub"),
        ("..", "."),
        ("../beside", "."),
        ("../../../etc", "."),
        ("/etc", "."),
        ("link", "."),
        ("link/../sub", "."),
        ("sub\0/..", "."),
        ("~", "."),
        ("x" * 10_000, "."),
    ],
)
def test_path_stays_below_the_root(tmp_path, path: str, folder: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    (root / "link").symlink_to(tmp_path / "beside")
    assert working_directory(str(root), path) == str((root / folder).resolve())


@pytest.mark.parametrize(
    ("wanted", "folder"),
    [("root/sub", "sub"), ("root", "."), ("link/sub", "sub"), ("beside", "."), ("sub\0", ".")],
)
def test_gateway_names_a_folder_of_its_own_machine(tmp_path, wanted: str, folder: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    (tmp_path / "link").symlink_to(root)
    path = gateway_path(str(root), {"KERNEL_WORKING_DIR": f"{tmp_path}/{wanted}"})
    assert working_directory(str(root), path) == str((root / folder).resolve())
    assert gateway_path(str(root), {}) == ""


@pytest.mark.parametrize(
    "path", ["", "a.ipynb", "x" * 4096, "/".join("x" * 200), "\N{SNOWMAN}" * 1365, "\ud800"]
)
def test_path_within_the_limits(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("x" * 4097, "the path has 4097 bytes; at most 4096 are allowed"),
        ("\N{SNOWMAN}" * 1366, "4098 bytes"),
        ("/".join("x" * 201), "the path has 201 parts; at most 200 are allowed"),
        ("/" * 200, "201 parts"),
    ],
)
def test_path_beyond_the_limits(path: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_path(path)


@pytest.mark.anyio
async def test_folder_is_found_in_a_thread(tmp_path, monkeypatch) -> None:
    threads: list[threading.Thread] = []

    def isdir(path: str) -> bool:
        threads.append(threading.current_thread())
        return True

    monkeypatch.setattr(os.path, "isdir", isdir)
    assert await find_folder(str(tmp_path), "", {}) == str(tmp_path)
    env = {"KERNEL_WORKING_DIR": f"{tmp_path}/x"}
    assert await find_folder(str(tmp_path), "", env) == f"{tmp_path}/x"
    assert await find_folder(str(tmp_path), "y", env) == f"{tmp_path}/y"
    assert threading.main_thread() not in threads


@pytest.mark.anyio
async def test_request_fails_if_the_file_system_does_not_answer(tmp_path, monkeypatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(directories, "FOLDER_SECONDS", 0.01)
    monkeypatch.setattr(os.path, "isdir", lambda path: answers.wait(60))
    try:
        with anyio.fail_after(60), pytest.raises(HTTPException) as caught:
            await find_folder(str(tmp_path), "x", {})
    finally:
        answers.set()
    assert caught.value.status_code == 503
    assert "did not answer within 0.01 s" in caught.value.detail


@pytest.mark.skipif(not HAS_CONFINED_FOLDERS, reason="needs descriptors of folders")
def test_a_folder_that_was_replaced_by_a_link_is_refused(tmp_path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (tmp_path / "other" / "b").mkdir(parents=True)
    for path in (root, root / "a" / "b"):
        open_folder(str(root), str(path), None).close()
    (root / "a").rename(root / "c")
    (root / "a").symlink_to(tmp_path / "other")
    with pytest.raises(Refused, match="symbolic link"):
        open_folder(str(root), str(root / "a" / "b"), None)
