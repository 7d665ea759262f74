from __future__ import annotations

import json

import pytest
from nbformat import v4

from kernelproto.notebook.cell_lines import find_cell_lines


def test_lines_of_a_written_notebook() -> None:
    sources = ["one = 1\n\ntwo = '\"source\": ['", "", "x\n{]\\"]
    cells = [v4.new_code_cell(source) for source in sources]
    cells[0]["outputs"] = [v4.new_output("stream", text='"cells": [\n"source": [')]
    text = v4.writes(v4.new_notebook(cells=cells, metadata={"cells": [{"source": ["no"]}]}))

    found = find_cell_lines(text)

    lines = text.splitlines()
    written = [[json.loads(lines[line - 1].rstrip(",")) for line in part] for part in found[::2]]
    assert written == [["one = 1\n", "\n", "two = '\"source\": ['"], ["x\n", "{]\\"]]
    assert lines[found[1][0] - 1].strip() == '"source": []'


def test_source_in_one_string() -> None:
    text = '{"cells": [\n{"source": "a\\nb"},\n{"x": 1,\n"source"\n:\n"c"}]}'
    assert find_cell_lines(text) == [[2], [6]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "{}",
        '{"cells": {}}',
        '{"cells": [{}]}',
        '{"cells": [1]}',
        '{"a" 1}',
        "[" * 9999,
    ],
)
def test_no_notebook(text: str) -> None:
    assert find_cell_lines(text) == []


def test_no_cells() -> None:
    assert find_cell_lines('{"cells": [ ]}') == []
