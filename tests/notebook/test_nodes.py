from __future__ import annotations

import pytest

from kernelproto import ProtocolError
from kernelproto.notebook.nodes import check_depth, to_node


def nested(levels: int) -> object:
    value: object = 1
    for level in range(levels):
        value = [value] if level % 2 else {"key": value}
    return value


def test_depth_up_to_the_limit_is_allowed() -> None:
    check_depth(nested(299), "text", 1)


def test_deeper_values_are_refused() -> None:
    with pytest.raises(ProtocolError, match="more than 300 levels of JSON"):
        check_depth("text", nested(300))


def test_wide_values_are_no_problem() -> None:
    check_depth({str(number): [number] for number in range(10_000)})


def test_nodes_have_attributes_at_every_level() -> None:
    assert to_node({"cells": [{"source": "1"}]}).cells[0].source == "1"
