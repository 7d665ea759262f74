from __future__ import annotations

import os

import pytest

from kernelproto.launch.output.file import FileTail, OutputFile

pytestmark = pytest.mark.usefixtures("no_leaks")

LIMIT = 64 * 1024


def test_tail_begins_where_the_kernel_began(tmp_path) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    file = OutputFile(str(path), os.open(path, os.O_WRONLY | os.O_APPEND))
    assert file.text() == ""
    file.write_end.write("\u00e9 ".encode() + b"\xff")
    assert file.text() == "\u00e9 \ufffd"
    file.write_end.write(b"x" * LIMIT)
    assert file.text() == "x" * LIMIT
    file.close()
    file.close()
    assert file.text() == "x" * LIMIT
    assert FileTail(str(path)).text() == "x" * LIMIT


def test_no_file_to_read(tmp_path) -> None:
    file = OutputFile(None, os.open(os.devnull, os.O_WRONLY))
    file.write_end.write(b"lost")
    assert file.text() == ""
    file.close()
    missing = FileTail(str(tmp_path / "missing"))
    assert missing.text() == FileTail(None).text() == ""
    missing.close()
