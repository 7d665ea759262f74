from __future__ import annotations

import pytest

from kernelproto.cli.highlight import is_expression


@pytest.mark.parametrize("text", ["1", "'a\\n'", "[1,\n 2]", "Point(x=1)", "array([1., 2.])"])
def test_expressions_have_colours(text: str) -> None:
    assert is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   a  b\n0  1  2",  # a table
        "<object object at 0x7f>",
        "\x1b[31m1\x1b[0m",  # coloured already
        "1" * 10_001,
        "(" * 5_000,
        "-" * 9_000 + "1",
        "a" + ".b" * 4_000,
    ],
)
def test_other_text_has_none(text: str) -> None:
    assert not is_expression(text)
