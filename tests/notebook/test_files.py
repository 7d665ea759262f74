"""Notebooks are read whole, and written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from kernelproto import InvalidNotebook
from kernelproto.notebook import read_notebook, write_notebook
from kernelproto.notebook.encoding import encode
from kernelproto.notebook.files import dump, parse_notebook, replace_file


def test_written_notebook_is_read(notebook, tmp_path: Path) -> None:
    nb, path = notebook("print('żółć')"), tmp_path / "a.ipynb"

    write_notebook(nb, path)

    assert read_notebook(path) == nb
    assert "żółć" in path.read_text("utf-8")
    assert os.listdir(tmp_path) == ["a.ipynb"]


def test_lone_surrogate_is_kept(notebook, tmp_path: Path) -> None:
    nb, path = notebook("'\udc80'"), tmp_path / "a.ipynb"

    write_notebook(nb, path)

    assert read_notebook(path) == nb


def test_old_format_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "old.ipynb"
    cell = {"cell_type": "code", "input": "1", "language": "python", "outputs": [], "metadata": {}}
    worksheets = [{"cells": [cell], "metadata": {}}]
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": worksheets}
    path.write_text(json.dumps(old))

    nb = read_notebook(path)

    assert (nb.nbformat, nb.cells[0].source) == (4, "1")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no JSON",
        b"\xff",
        b"[]",
        b"{}",
        b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{}]}',
        b'{"nbformat": 99, "nbformat_minor": 0}',
    ],
)
def test_invalid_file_is_refused_by_its_name(text, tmp_path: Path) -> None:
    path = tmp_path / "bad.ipynb"
    path.write_bytes(text)

    with pytest.raises(InvalidNotebook, match=r"bad\.ipynb is not a valid notebook: \S"):
        read_notebook(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_notebook(tmp_path / "missing.ipynb")


def test_old_file_is_kept_when_the_notebook_is_invalid(notebook, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    write_notebook(notebook("old"), path)
    before = path.read_bytes()

    with pytest.raises(InvalidNotebook):
        write_notebook({"nbformat": 4, "nbformat_minor": 5, "metadata": {}}, path)
    with pytest.raises(InvalidNotebook, match="has nbformat 3 instead of 4"):
        write_notebook({"nbformat": 3}, path)

    assert path.read_bytes() == before


def test_failed_write_leaves_no_file(notebook, tmp_path: Path) -> None:
    folder = tmp_path / "a.ipynb"
    folder.mkdir()

    with pytest.raises(OSError, match=r"a\.ipynb"):
        write_notebook(notebook("new"), folder)

    assert os.listdir(tmp_path) == ["a.ipynb"]


def test_a_file_keeps_its_mode_and_a_link_its_target(notebook, tmp_path: Path) -> None:
    path, link = tmp_path / "a.ipynb", tmp_path / "link.ipynb"
    path.touch()
    path.chmod(0o640)
    link.symlink_to(path)

    write_notebook(notebook("new"), link)

    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert read_notebook(path) == read_notebook(link)


@pytest.mark.parametrize("source", ["print('żółć')", "'\udc80'"])
def test_quick_dump_is_the_same_notebook(source, notebook, tmp_path: Path) -> None:
    nb, path = notebook(source), tmp_path / "a.ipynb"

    replace_file(path, encode(nb))

    assert read_notebook(path) == nb


def test_formatting_is_that_of_nbformat(notebook) -> None:
    nb = notebook("1\n2", "'\udc80 żółć'")
    data = {"text/html": "<b>\n</b>", "image/png": "AA\n", "application/json": {"b": 1.5, "a": []}}
    nb["cells"][0]["outputs"] = [
        v4.new_output("stream", text="one\r\ntwo\u2028three"),
        v4.new_output("display_data", data=data),
    ]
    nb["cells"] += [v4.new_markdown_cell("a\n", attachments={"x": {"text/plain": "b\nc"}})] * 500
    nb["cells"][0]["metadata"]["trusted"] = True

    assert bytes(dump(nb)) == (nbformat.v4.writes(nb) + "\n").encode(errors="backslashreplace")
    assert nb["cells"][0]["source"] == "1\n2"


def test_fifo_gets_the_notebook(notebook, tmp_path: Path) -> None:
    nb, fifo, received = notebook("1"), tmp_path / "fifo", tmp_path / "received.ipynb"
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: received.write_bytes(fifo.read_bytes()))
    reader.start()

    write_notebook(nb, fifo)

    reader.join()
    assert read_notebook(received) == nb
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_device_is_written_to_and_stays(notebook, tmp_path: Path) -> None:
    device, link = tmp_path / "null", tmp_path / "link"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make devices")
    link.symlink_to(device)

    write_notebook(notebook("1"), link)

    assert stat.S_ISCHR(device.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "null"]


def test_descriptor_of_a_pipe_gets_the_notebook(notebook) -> None:
    nb = notebook("1")
    read, write = os.pipe()
    with open(read, "rb") as pipe:
        write_notebook(nb, f"/dev/fd/{write}")
        os.close(write)
        assert parse_notebook(pipe.read(), "pipe") == nb


def test_file_keeps_its_owner(notebook, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.touch()
    try:
        os.chown(path, 12345, 12346)
    except PermissionError:
        pytest.skip("only root may give files away")

    write_notebook(notebook("new"), path)

    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
