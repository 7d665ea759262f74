from __future__ import annotations

import gc
import json
import tracemalloc
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire import large_json, tolerant_json
from kernelproto.wire.content import (
    CommInfoReply,
    DisplayData,
    ErrorOutput,
    ExecuteReply,
    HistoryReply,
    Stream,
)
from kernelproto.wire.large_json import read_in_steps

PART = 2**16


# The fixture below is the same for all examples of a test.
quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "_PART_BYTES", 8)
    monkeypatch.setattr(large_json, "_MARKS", 3)
    monkeypatch.setattr(large_json, "_ITEMS", 2)


def read(data: bytes | memoryview, kind: type[Any] = dict) -> Any:
    steps = read_in_steps(data, kind)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def number_of_steps(data: bytes, kind: type[Any] = dict) -> int:
    return sum(1 for _ in read_in_steps(data, kind))


def outcome(reader: Any, data: bytes, kind: type[Any]) -> object:
    """Return the JSON that a reader returns, or the type of its exception."""
    try:
        return tolerant_json.encode(reader(data, kind))
    except MalformedMessage as error:
        return type(error)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-99, 10**18)
    | st.floats()
    | st.text('ab,"\\[{}]é', max_size=12),
    lambda values: (
        st.lists(values, max_size=5)
        | st.dictionaries(st.text('a,"', max_size=3), values, max_size=5)
    ),
    max_leaves=40,
)
INDENTS = st.sampled_from([None, 1])


@pytest.mark.usefixtures("small_steps")
@quiet
@given(st.dictionaries(st.text("ab", max_size=2), JSON, max_size=6), INDENTS, st.booleans())
def test_any_object_is_read_as_in_one_step(value: Any, indent: int | None, ascii_: bool) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_).encode()
    assert outcome(read, data, dict) == outcome(tolerant_json.decode, data, dict)


# Without numbers: a cut number would be another valid one, as in 1,2 and 12.
TEXTS = st.text('{}[],:"a0 ', max_size=60)


@pytest.mark.usefixtures("small_steps")
@quiet
@given(TEXTS)
@example('{"a":[[1,1,1,1,1,1],]}')
@example('{"a":[[1,1,1,1,1,1],,2]}')
@example('{"a":[[1,1,1,1,1,1]2]}')
@example('{"a":[[1,1,1,1,1,1][1,1,1,1,1,1,1]]}')
@example('{"a":[[1,1,1,1,1,1]"b":2]}')
@example('{"a":[1,1,1,1,1,1,]}')
@example('{"a":[,1,1,1,1,1]}')
@example("{[1,1,1,1,1,1]}")
@example('{"a" [1,1,1,1,1,1]}')
@example('{"a":1[1,1,1,1,1,1]}')
@example('{"a":[1,1,1,1,1,1,1[1,1,1,1,1,1]]}')
@example('{"a":-[1,1,1,1,1,1]}')
@example("[[1,1,1,1,1,1],[1,1,1,1]]")
@example('{"a":[1,1,1,1,1,1}}')
@example('{"a":[1,1,1,1,1,1]}}')
@example('{"a":[1,1,1,1,1,1]} x')
@example('x {"a":[1,1,1,1,1,1]}')
@example('{"a":[1,1,1,1,1,1]')
@example('{"a":"1,1,1,1,1,1')
@example(",")
@example("]")
@example("null")
@example("{}")
@example('{"a":[[1,1,1,1,1,1] , 2 , [1,1,1,1,1,1] ],"b":{"":[1,1,1,1,1,1],"":7}}')
@example('{"a":1,"b":[1,1,1,1,1,1],"a":[1,1,1,1,1,1,1]}')
def test_any_text_is_read_or_refused_as_in_one_step(text: str) -> None:
    data = text.encode()
    expected = outcome(tolerant_json.decode, data, dict)
    assert outcome(read, data, dict) == (MalformedMessage if text == "null" else expected)


CONTENTS: list[tuple[type[Any], dict[str, Any]]] = [
    (Stream, {"name": "stderr", "text": "a" * 100}),
    (Stream, {"name": "stderr", "text": 5, "unknown": [1] * 100}),
    (Stream, {"text": ["a"] * 100}),
    (DisplayData, {"data": {"a": [[1], {"b": 2.5}] * 50}, "metadata": None}),
    (DisplayData, {"data": ["a"] * 100}),
    (ErrorOutput, {"ename": "E", "traceback": ["line"] * 100}),
    (ErrorOutput, {"ename": "E", "traceback": [["line"]] * 100}),
    (ExecuteReply, {"payload": [{"source": "page"}] * 9, "user_expressions": {"a": 1}}),
    (ExecuteReply, {"payload": [["source"]] * 9}),
    (CommInfoReply, {"comms": {str(n): {"target_name": "t"} for n in range(9)}}),
    (CommInfoReply, {"comms": {str(n): [] for n in range(9)}}),
    (HistoryReply, {"history": [[1, n, ["in", "out"]] for n in range(9)]}),
    (HistoryReply, {"history": [[1, n] for n in range(9)]}),
]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(("kind", "content"), CONTENTS)
def test_content_is_read_as_in_one_step(kind: type[Any], content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    assert outcome(read, data, kind) == outcome(tolerant_json.decode, data, kind)


@pytest.mark.parametrize(
    "unknown",
    [
        "[" + "[]," * 99_999 + "[]]",
        ",".join(f'{{"{n}":[[]]}}' for n in range(50_000)).join(['{"a":[', "]}"]),
    ],
)
def test_values_of_unknown_fields_are_not_kept(unknown: str) -> None:
    data = f'{{"name":"stdout","unknown":{unknown},"text":"a"}}'.encode()
    count = len(gc.get_objects())
    most = max(len(gc.get_objects()) for _ in islice(read_in_steps(data, Stream), 0, None, 20))
    assert read(data, Stream) == Stream("stdout", "a")
    assert most - count < 20_000


@pytest.mark.parametrize("escaped", [False, True])
def test_long_string_is_read(escaped: bool) -> None:
    text = ("é\n\"'\\" if escaped else "word ") * PART
    data = json.dumps({"name": "stdout", "text": text}).encode()
    assert read(memoryview(data), Stream) == Stream("stdout", text)
    assert number_of_steps(data, Stream) > 1


@pytest.mark.parametrize("end", ["", "\\", '\\"'])
def test_long_string_without_end_is_refused(end: str) -> None:
    with pytest.raises(MalformedMessage, match="incomplete"):
        read(f'{{"text": "{"a" * 300}{end}'.encode())


def test_depth_has_a_limit() -> None:
    deep = b'{"a":' + b"[" * 899 + b"]" * 899 + b"}"
    assert read(deep)
    with pytest.raises(MalformedMessage, match="more than 900 levels"):
        read(b'{"a":' + b"[" * 10**6)


SHAPES = {
    "empty lists": ("[", "[]"),
    "empty objects": ("[", "{}"),
    "numbers": ("[", "1"),
    "short texts": ("[", '"a"'),
    "escaped texts": ("[", '"\\\\\\""'),
    "nulls": ("[", "null"),
    "small objects": ("[", '{"a":1,"b":[2,3]}'),
    "keys": ("{", '"%d":0'),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_work_of_a_step_is_bounded(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the bytes that msgspec reads at once, and the marks between two steps."""
    bracket, item = SHAPES[shape]
    items = ",".join(item % n if "%" in item else item for n in range(2**18 // len(item)))
    data = f'{{"data":{{"a":{bracket}{items}{"]" if bracket == "[" else "}"}}}}}'.encode()
    sizes = []
    original = tolerant_json.decode

    def decode(part: bytes, kind: type[Any]) -> Any:
        sizes.append(len(part))
        return original(part, kind)

    with monkeypatch.context() as patch:
        patch.setattr(tolerant_json, "decode", decode)
        content = read(data, DisplayData)
    assert content == tolerant_json.decode(data, DisplayData)
    assert max(sizes) < PART + 100
    assert number_of_steps(data, DisplayData) >= data.count(b",") / 2000


@pytest.mark.parametrize(
    ("text", "is_large"),
    [
        pytest.param(b'"' + b"x" * 2_000_000 + b'"', False, id="one string"),
        pytest.param(b"[" + b"1.25," * 20_000 + b"1]", False, id="some numbers"),
        pytest.param(b"[" + b"{}," * 10_000 + b"1]", False, id="short"),
        pytest.param(b"[" + b"1.2345678901," * 40_000 + b"1]", True, id="many numbers"),
        pytest.param(b"[" * 300_000, True, id="many brackets"),
        pytest.param(b"x" * 2_000_000 + b"{" * 40_000, True, id="many brackets after a string"),
        pytest.param((b"x" * 49 + b",") * 30_000, False, id="the most commas in parts"),
        pytest.param((b"x" * 49 + b",") * 30_001, True, id="too many commas in parts"),
        pytest.param((b"x" * 147 + b",[{") * 10_001, True, id="too many of three marks"),
    ],
)
def test_texts_with_few_values_are_read_at_once(text: bytes, is_large: bool) -> None:
    assert large_json.is_large(text) is is_large
    assert large_json.is_large(memoryview(text)) is is_large


def test_a_long_text_is_not_copied_to_count_the_values() -> None:
    text = memoryview(b"x" * 8_000_000)
    tracemalloc.start()
    try:
        assert not large_json.is_large(text)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
