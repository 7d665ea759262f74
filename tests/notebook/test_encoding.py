"""A file that is encoded in parts has the same contents."""

from __future__ import annotations

import json

import pytest
from nbformat import v4

from kernelproto.notebook import encoding
from kernelproto.notebook.encoding import encode, lines_of


@pytest.mark.parametrize("step", [1, 7, 60, 2**20])
def test_parts_of_any_size_are_the_same_notebook(step: int, monkeypatch) -> None:
    monkeypatch.setattr(encoding, "_STEP", step)
    figure = {"data": [{"x": [1, 2.5], "name": "a long name"}], "layout": {}, "empty": []}
    outputs = [
        v4.new_output("stream", text=["a\n", "b" * 30]),
        v4.new_output("display_data", data={"text/plain": "'x'", "application/json": figure}),
        v4.new_output("error", ename="E", evalue="żółć\u2028", traceback=["one", "two"]),
    ]
    state = {"model": {"state": {"value": "v" * 30, "outputs": []}}}
    nb = v4.new_notebook(
        cells=[v4.new_markdown_cell(), v4.new_code_cell("'\udc80'", outputs=outputs)],
        metadata={"widgets": {"type": {"state": state}}},
    )

    assert json.loads(bytes(encode(nb))) == nb
    assert json.loads(bytes(encode(v4.new_notebook()))) == v4.new_notebook()


@pytest.mark.parametrize("text", ["", "a", "a\n", "a\r\nb\rc\u2028d\x0ce\n\n", "\n" * 9])
def test_lines_are_split_in_steps(text: str, monkeypatch) -> None:
    for step in range(1, 5):
        monkeypatch.setattr(encoding, "_STEP", step)
        assert lines_of(text) == text.splitlines(True)


def test_small_notebook_is_readable_text(notebook) -> None:
    assert b'\n  "source": "1 + 1"' in bytes(encode(notebook("1 + 1", "2")))


def test_no_step_encodes_more_than_its_limit(monkeypatch) -> None:
    monkeypatch.setattr(encoding, "_STEP", 1000)
    texts: list[object] = [["x" * 99] * 50, "y" * 5000, ["z"] * 5000]
    outputs = [v4.new_output("stream", text=text) for text in texts]
    nb = v4.new_notebook(cells=[v4.new_code_cell(outputs=outputs)])

    parts = list(encoding._parts(nb, 0))

    # JSON of one character takes a few bytes more.
    assert max(map(len, parts)) < 10 * 1000
