from __future__ import annotations

import json
import math
import sys
from collections import ChainMap
from datetime import UTC, datetime
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.exceptions import LocalProtocolError, MalformedMessage
from kernelproto.wire.tolerant_json import decode, encode, repair_texts


class Inner(msgspec.Struct):
    text: str = "inner default"


class Thing(msgspec.Struct):
    text: str = "default"
    number: int | None = None
    share: float | None = None
    words: list[str] = []
    anything: Any = None
    inner: Inner = msgspec.field(default_factory=Inner)


class Strict(msgspec.Struct):
    needed: str


RECURSIVE: dict[str, object] = {}
RECURSIVE["self"] = RECURSIVE
RECURSIVE_MAPPING: dict[str, object] = {}
RECURSIVE_MAPPING["self"] = MappingProxyType(RECURSIVE_MAPPING)


class Word(str):
    """A str as numpy's str_ is one."""

    def __str__(self) -> str:
        return "for people"


class Count(int):
    """An int as those of enumerations are; numpy's are none, but are registered as Integral."""

    def __str__(self) -> str:
        return "for people"


class Share(float):
    """A float as numpy's float64 is one."""


TOO_LONG_TO_READ = 10 ** sys.get_int_max_str_digits()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param({}, b"{}", id="empty"),
        pytest.param(Inner("é"), '{"text":"é"}'.encode(), id="Struct"),
        pytest.param({"a": [1, {"b": None}]}, b'{"a":[1,{"b":null}]}', id="nested"),
        pytest.param({"a": math.nan, "b": -math.inf}, b'{"a":null,"b":null}', id="no numbers"),
        pytest.param({"a": 2**64}, b'{"a":18446744073709551616}', id="integer of 65 bits"),
        pytest.param({"a": -(2**63) - 1}, b'{"a":-9223372036854775809}', id="negative integer"),
        pytest.param({1: 2.5}, b'{"1":2.5}', id="number for a name"),
        pytest.param(MappingProxyType({"a": 1}), b'{"a":1}', id="mapping"),
        pytest.param({"a": [ChainMap({"b": 1})]}, b'{"a":[{"b":1}]}', id="mapping inside"),
        pytest.param({"a": (1, 2), "b": {3}}, b'{"a":[1,2],"b":[3]}', id="tuple and set"),
        pytest.param({Word("a"): Word("é")}, '{"a":"é"}'.encode(), id="str of a kind"),
        pytest.param({"a": Count(3)}, b'{"a":3}', id="int of a kind"),
        pytest.param({"a": Share(0.5)}, b'{"a":0.5}', id="float of a kind"),
        pytest.param({"a": Fraction(1, 2)}, b'{"a":0.5}', id="number that is neither"),
        pytest.param({"a": b"\xff"}, b'{"a":"/w=="}', id="bytes"),
        pytest.param(
            {"a": datetime(2026, 11, 20, tzinfo=UTC)}, b'{"a":"2026-11-20T00:00:00Z"}', id="date"
        ),
    ],
)
def test_values_with_a_json_form_are_written(value, text) -> None:
    assert encode(value) == text


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="None"),
        pytest.param(5, id="number"),
        pytest.param("{}", id="str"),
        pytest.param(b"{}", id="bytes"),
        pytest.param([{}], id="list"),
        pytest.param(object(), id="object"),
        pytest.param({"a": object()}, id="object inside"),
        pytest.param({"a": 1j}, id="complex number"),
        pytest.param({"a": iter([("b", 1)])}, id="iterator"),
        pytest.param({"a": {1, object()}}, id="object in a set"),
        pytest.param({"a": "\ud800"}, id="lone surrogate"),
        pytest.param({"\udfff": 1}, id="lone surrogate in a name"),
        pytest.param({None: 1}, id="None for a name"),
        pytest.param({(1, 2): 1}, id="tuple for a name"),
        pytest.param({"a": TOO_LONG_TO_READ}, id="integer that is too long to read"),
        pytest.param(RECURSIVE, id="recursive dict"),
        pytest.param(RECURSIVE_MAPPING, id="recursive mapping"),
        pytest.param(Inner(text=object()), id="Struct with an object"),
    ],
)
def test_values_without_a_json_form_are_refused(value) -> None:
    with pytest.raises(LocalProtocolError):
        encode(value)


def thing(**fields: object) -> Thing:
    return Thing(**fields)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"{}", thing(), id="empty object"),
        pytest.param(b"null", thing(), id="null"),
        pytest.param(b' {"number" : 1}\n', thing(number=1), id="white space"),
        pytest.param(b'{"anything":Infinity}', thing(anything=math.inf), id="Infinity"),
        pytest.param(b'{"anything":-Infinity}', thing(anything=-math.inf), id="minus Infinity"),
        pytest.param(b'{"anything":1e999}', thing(anything=math.inf), id="beyond every float"),
        pytest.param(b'{"share":-Infinity}', thing(share=-math.inf), id="Infinity for a number"),
        pytest.param(rb'{"text":"a\ud800"}', thing(text="a\ud800"), id="lone surrogate escape"),
        pytest.param(b'{"text":"a\xed\xa0\x80"}', thing(text="a\ud800"), id="raw lone surrogate"),
        pytest.param(
            rb'{"anything":{"\udc00":[1]}}',
            thing(anything={"\udc00": [1]}),
            id="lone surrogate in a name",
        ),
        pytest.param(rb'{"\ud800":1,"number":2}', thing(number=2), id="in an unknown name"),
        pytest.param(b'{"text":"caf\xe9"}', thing(text="caf\ufffd"), id="not UTF-8"),
        pytest.param(b'{"text":"\xe9\xed\xa0\x80"}', thing(text="\ufffd" * 4), id="mixed"),
        pytest.param(
            b'{"anything":{"\xff":[1]}}', thing(anything={"\ufffd": [1]}), id="name not UTF-8"
        ),
        pytest.param(b'{"\xff":1,"number":2}', thing(number=2), id="unknown name not UTF-8"),
        pytest.param(b'{"text":null}', thing(), id="null for a string"),
        pytest.param(b'{"words":null}', thing(), id="null for a list"),
        pytest.param(b'{"inner":null}', thing(), id="null for an object"),
        pytest.param(b'{"inner":{"text":null}}', thing(), id="null inside an object"),
        pytest.param(b'{"text":12}', thing(text="12"), id="number for a string"),
        pytest.param(b'{"text":1.5}', thing(text="1.5"), id="float for a string"),
        pytest.param(b'{"inner":{"text":3}}', thing(inner=Inner("3")), id="number inside"),
        pytest.param(b'{"number":"7"}', thing(number=7), id="string for a number"),
        pytest.param(b'{"number":7.0}', thing(number=7), id="float for an integer"),
        pytest.param(b'{"number":18446744073709551616}', thing(number=2**64), id="65 bits"),
        pytest.param(b'{"number":1,"unknown":[{}]}', thing(number=1), id="unknown name"),
        pytest.param(b'{"number":1,"number":2}', thing(number=2), id="name that stands twice"),
    ],
)
def test_common_faults_of_kernels_are_repaired(data, expected) -> None:
    assert decode(data, Thing) == expected
    assert decode(memoryview(data), Thing) == expected


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b" ", id="white space"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b"{}{}", id="two objects"),
        pytest.param(b"{'text':1}", id="single quotes"),
        pytest.param(b'{"text":undefined}', id="JavaScript"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"1", id="number"),
        pytest.param(b"NaN", id="NaN"),
        pytest.param(b'"{}"', id="string"),
        pytest.param(b'{"text":[]}', id="array for a string"),
        pytest.param(b'{"words":{}}', id="object for an array"),
        pytest.param(b'{"words":[null]}', id="null in an array of strings"),
        pytest.param(b'{"inner":[]}', id="array for an object"),
        pytest.param(b'{"number":NaN}', id="NaN for an integer"),
        pytest.param(b'{"number":Infinity}', id="Infinity for an integer"),
        pytest.param(rb'{"number":"\ud800"}', id="lone surrogate for a number"),
        pytest.param(b'{"share":1%s}' % (b"0" * 400), id="integer beyond every float"),
        pytest.param(b'{"anything":%s}' % (b"1" * 5000), id="integer of 5000 digits"),
        pytest.param(b'{"anything":' + b"[" * 100_000, id="brackets that never close"),
        pytest.param(b"\x00\x01\x02", id="no text"),
    ],
)
def test_unreadable_json_is_malformed(data) -> None:
    with pytest.raises(MalformedMessage, match="as Thing"):
        decode(data, Thing)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (b"", b""),
        (b'{"a":"b"}', b'{"a":"b"}'),
        ('{"a":"é"}'.encode(), '{"a":"é"}'.encode()),
        (b'{"a":"\xe9"}', '{"a":"\ufffd"}'.encode()),
        (b'"\xed\xa0\x80"', '"\ufffd\ufffd\ufffd"'.encode()),
    ],
)
def test_only_text_that_is_not_utf_8_is_repaired(frame, expected) -> None:
    for given_frame in (frame, memoryview(frame)):
        ascii_frame, repaired = repair_texts([b"{}", given_frame])
        assert ascii_frame == b"{}"
        assert repaired == expected
        assert (repaired is given_frame) == (frame == expected)


@pytest.mark.parametrize("data", [b"{}", b"null", b'{"needed":null}', b'{"needed":[]}'])
def test_required_string_stays_required(data) -> None:
    with pytest.raises(MalformedMessage, match="needed"):
        decode(data, Strict)


@pytest.mark.parametrize("data", [b"{}", b"null"])
def test_null_is_an_empty_dict(data) -> None:
    assert decode(data, dict) == {}


@pytest.mark.parametrize("data", [b"", b"[]", b"0", b"false", b'""', b"NaN", b"{"])
def test_dict_is_read_from_nothing_but_an_object(data) -> None:
    with pytest.raises(MalformedMessage, match="as dict"):
        decode(data, dict)


@pytest.mark.parametrize("odd", [b"NaN", rb'"\ud800"'], ids=["NaN", "lone surrogate"])
def test_odd_value_changes_nothing_beside_it(odd) -> None:
    plain = b'"number":3,"text":"x","words":["y"],"anything":{"a":null,"b":[1,"2"]}'
    read = decode(b'{"odd":%s,%s}' % (odd, plain), Thing)
    assert read == decode(b"{%s}" % plain, Thing)
    assert read.anything == {"a": None, "b": [1, "2"]}


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["arrays", "objects"])
@pytest.mark.parametrize("depth", [100, 1_000, 10_000, 1_000_000])
@pytest.mark.parametrize("kind", [dict, Thing])
def test_deep_nesting_is_read_or_malformed(kind, depth, opening) -> None:
    closing = b"]" if opening == b"[" else b"}"
    data = b'{"anything":%sNaN%s}' % (opening * depth, closing * depth)
    try:
        value = decode(data, kind)
    except MalformedMessage:
        assert depth >= 1_000
    else:
        assert isinstance(value, kind)


def json_objects(
    scalars: st.SearchStrategy[object], names: st.SearchStrategy[str]
) -> st.SearchStrategy[dict[str, object]]:
    values = st.recursive(
        st.none() | st.booleans() | scalars,
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(names, inside, max_size=3),
        max_leaves=8,
    )
    return st.dictionaries(names, values, max_size=5)


text = st.text(st.characters(codec="utf-8"), max_size=5)
odd_text = st.text(st.characters(exclude_categories=()), max_size=5)  # lone surrogates as well
odd_scalars = st.integers() | st.floats() | odd_text


@given(json_objects(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text, text))
def test_written_json_is_read_back(value) -> None:
    assert decode(encode(value), dict) == json.loads(encode(value)) == value


@given(json_objects(odd_scalars, odd_text), st.booleans())
def test_reads_the_json_of_the_standard_library(value, escape) -> None:
    data = json.dumps(value, ensure_ascii=escape).encode("utf-8", "surrogatepass")
    assert repr(decode(data, dict)) == repr(json.loads(data))


@given(
    json_objects(odd_scalars, odd_text | st.sampled_from(Thing.__struct_fields__)), st.booleans()
)
def test_any_values_in_any_fields_are_read_or_malformed(value, escape) -> None:
    data = json.dumps(value, ensure_ascii=escape).encode("utf-8", "surrogatepass")
    try:
        read = decode(data, Thing)
    except MalformedMessage:
        return
    assert isinstance(read.text, str)
    assert isinstance(read.inner, Inner)
    assert all(isinstance(word, str) for word in read.words)
