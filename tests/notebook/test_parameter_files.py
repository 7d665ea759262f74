"""A file of parameters has the values of JSON, in YAML or JSON."""

from __future__ import annotations

import math

import pytest

from kernelproto import InvalidParameter
from kernelproto.notebook.parameter_files import parse_parameters, read_parameter_file


def test_values_of_yaml() -> None:
    text = """
        none: ~
        yes_or_no: true
        int: -3
        hexadecimal: 0xff
        float: 1.5
        learning_rate: 1e-3
        infinity: -.inf
        text: plain text
        quoted: "no"
        date: 2026-01-02
        time: 2026-01-02 10:00:00
        list: [1, a, {b: null}]
        base: &base {a: 1, b: 2}
        derived: {<<: *base, b: 3}
    """
    assert parse_parameters(text.encode(), "p.yaml") == {
        "none": None,
        "yes_or_no": True,
        "int": -3,
        "hexadecimal": 255,
        "float": 1.5,
        "learning_rate": 0.001,
        "infinity": -math.inf,
        "text": "plain text",
        "quoted": "no",
        "date": "2026-01-02",
        "time": "2026-01-02 10:00:00",
        "list": [1, "a", {"b": None}],
        "base": {"a": 1, "b": 2},
        "derived": {"a": 1, "b": 3},
    }


def test_file_of_json(tmp_path) -> None:
    path = tmp_path / "p.JSON"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, null, "no"]}')  # with a byte order mark

    assert read_parameter_file(path) == {"a": [1, None, "no"]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a: no", "p.yaml, line 1, column 4: write true or false instead of no, or quote the"),
        (b"a: 1\nb: 010", "p.yaml, line 2, column 4: write 010 as a decimal number, or quote the"),
        (b"a: 1_000", "write 1_000 as a decimal number"),
        (b"a: 12:30", "write 12:30 as a decimal number, or quote the text"),
        (b"a: 1_0.5", "write 1_0.5 as a decimal number"),
        (b"a: 1\na: 2", "p.yaml, line 1, column 1: 'a' is given twice"),
        (b"a: {b: 1, b: 2}", "'b' is given twice"),
        (b"a: !!python/object/apply:os.getpid []", "type !!python/object/apply:os.getpid are not"),
        (b"a: !!binary aGk=", "values of the type !!binary are not supported"),
        (b"a: !!set {b}", "values of the type !!set are not supported"),
        (b"a: !own b", "values of the type !own are not supported"),
        (b"a: [1", "p.yaml, line 1, column 6: expected ',' or ']'"),
        (b"a: {[1]: 2}", "found unhashable key"),
        (b"- 1", "has no mapping of names to values"),
        (b"", "has no mapping of names to values"),
        (b"1: 2", "the name 1 of a parameter is not text"),
        (b"a: \xff", "can't decode byte 0xff"),
        (b"a: \0", "special characters are not allowed"),
        (b"[" * 5000, "p.yaml is nested too deeply"),
        (b"#" * (2**20 + 1), "has more than 1048576 bytes"),
    ],
)
def test_refused_yaml(data, reason) -> None:
    with pytest.raises(InvalidParameter) as raised:
        parse_parameters(data, "p.yaml")
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b"[1]", "has no mapping"),
        (b"a: 1", "p.json: Expecting value: line 1 column 1"),
    ],
)
def test_refused_json(data, reason) -> None:
    with pytest.raises(InvalidParameter, match=reason):
        parse_parameters(data, "p.json")
