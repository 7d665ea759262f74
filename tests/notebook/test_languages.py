"""The literals of each language; tests/integration/kernels has kernels read them."""

from __future__ import annotations

import json
import math
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelproto import InvalidParameter
from kernelproto.notebook.languages import LANGUAGES
from kernelproto.notebook.parameters import parameters_source

VALUES = {
    "n": None,
    "b": True,
    "i": -3,
    "f": 1.5,
    "s": 'a "quoted" \\ line\n$HOME ż',
    "l": [1, (False,)],
    "d": {"a b": {"c": []}},
    "x": math.inf,
    "y": -math.inf,
    "z": math.nan,
}

SOURCES = {
    "python": """\
# Parameters
n = None
b = True
i = -3
f = 1.5
s = 'a "quoted" \\\\ line\\n$HOME ż'
l = [1, [False]]
d = {'a b': {'c': []}}
x = float('inf')
y = -float('inf')
z = float('nan')""",
    "R": """\
# Parameters
n <- NULL
b <- TRUE
i <- -3
f <- 1.5
s <- "a \\"quoted\\" \\\\ line\\n$HOME ż"
l <- list(1, list(FALSE))
d <- list("a b" = list("c" = list()))
x <- Inf
y <- -Inf
z <- NaN""",
    "julia": """\
# Parameters
n = nothing
b = true
i = -3
f = 1.5
s = "a \\"quoted\\" \\\\ line\\n\\$HOME ż"
l = [1, [false]]
d = Dict("a b" => Dict("c" => []))
x = Inf
y = -Inf
z = NaN""",
    "typescript": """\
// Parameters
var n = null;
var b = true;
var i = -3;
var f = 1.5;
var s = "a \\"quoted\\" \\\\ line\\n$HOME ż";
var l = [1, [false]];
var d = {"a b": {"c": []}};
var x = Infinity;
var y = -Infinity;
var z = NaN;""",
}
SOURCES["scala"] = """\
// Parameters
val n = None
val b = true
val i = -3
val f = 1.5
val s = "a \\"quoted\\" \\\\ line\\n$HOME ż"
val l = Seq(1, Seq(false))
val d = Map("a b" -> Map("c" -> Seq()))
val x = Double.PositiveInfinity
val y = Double.NegativeInfinity
val z = Double.NaN"""
SOURCES["C#"] = """\
// Parameters
object n = null;
var b = true;
var i = -3;
var f = 1.5;
var s = "a \\"quoted\\" \\\\ line\\n$HOME ż";
var l = new object[] { 1, new[] { false } };
var d = new System.Collections.Generic.Dictionary<string, object> { { "a b", new System.Collections\
.Generic.Dictionary<string, object> { { "c", new object[] {  } } } } };
var x = double.PositiveInfinity;
var y = double.NegativeInfinity;
var z = double.NaN;"""
SOURCES["F#"] = """\
// Parameters
let n = None
let b = true
let i = -3
let f = 1.5
let s = "a \\"quoted\\" \\\\ line\\n$HOME ż"
let l = [ box (1); box ([ false ]) ]
let d = Map.ofList<string, obj> [ ("a b", box (Map.ofList<string, obj> [ ("c", box ([  ])) ])) ]
let x = infinity
let y = -infinity
let z = nan"""
SOURCES["powershell"] = """\
# Parameters
$n = $null
$b = $true
$i = -3
$f = 1.5
$s = ('a "quoted" \\ line' + [char]0x000a + '$HOME ż')
$l = @(1, @(,$false))
$d = @{ 'a b' = @{ 'c' = @() } }
$x = [double]::PositiveInfinity
$y = [double]::NegativeInfinity
$z = [double]::NaN"""
SOURCES["matlab"] = """\
% Parameters
n = [];
b = true;
i = -3;
f = 1.5;
s = ("a ""quoted"" \\ line" + char(10) + "$HOME ż");
l = {1, {false}};
d = containers.Map({char("a b")}, {containers.Map({char("c")}, {{}})});
x = Inf;
y = -Inf;
z = NaN;"""
SOURCES["javascript"] = SOURCES["typescript"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("language", SOURCES)
def test_literals_of_every_language(language) -> None:
    assert parameters_source(VALUES, language) == SOURCES[language]


@given(JSON)
def test_python_evaluates_to_the_value(value) -> None:
    namespace: dict[str, object] = {}
    exec(parameters_source({"value": value}, "python"), namespace)  # it is code, and ours

    assert namespace["value"] == value


@given(st.recursive(st.none() | st.integers(-(2**53), 2**53) | st.text(), st.lists))
def test_javascript_writes_json(value) -> None:
    source = parameters_source({"value": value}, "javascript").removeprefix("// Parameters\n")

    assert json.loads(source.removeprefix("var value = ").removesuffix(";")) == value


def test_literals_of_bash() -> None:
    parameters = {
        "n": None,
        "b": True,
        "f": 1.5,
        "s": "it's ż!\n",
        "l": [1, "a b", None],
        "d": {"a b": 1},
    }
    assert parameters_source(parameters, "bash").splitlines() == [
        "# Parameters",
        "n=''",
        "b=true",
        "f=1.5",
        r"s=$'it\x27s \xc5\xbc\x21\x0a'",
        "l=(1 'a b' '')",
        "unset -v d; declare -A d=(['a b']=1)",
    ]


@pytest.mark.parametrize(
    ("language", "value", "code"),
    [
        ("scala", 2**31, "2147483648L"),
        ("scala", 2**63, 'BigInt("9223372036854775808")'),
        ("c#", [1, 2], "new[] { 1, 2 }"),
        ("c#", [1, 2.5], "new object[] { 1, 2.5 }"),
        ("c#", -(2**31) - 1, "-2147483649L"),
        ("c#", 2**63, 'System.Numerics.BigInteger.Parse("9223372036854775808")'),
        ("f#", ["a", "b"], '[ "a"; "b" ]'),
        ("f#", 2**31, "2147483648L"),
        ("f#", 2**63, "9223372036854775808I"),
        ("powershell", 2**63, "[bigint]::Parse('9223372036854775808')"),
        ("powershell", "it's", "'it''s'"),
        ("powershell", "\u2019\U000e0001", "('' + [char]0x2019 + [char]0xdb40 + [char]0xdc01)"),
        ("matlab", {}, "containers.Map()"),
        ("julia", [True, 1], "Any[true, 1]"),
        ("julia", "\U000e0001", '"\\U000e0001"'),
        ("typescript", {"__proto__": 1}, '{["__proto__"]: 1}'),
        ("typescript", "\ud800\u2028", '"\\ud800\\u2028"'),
    ],
)
def test_literal(language: str, value: object, code: str) -> None:
    assert LANGUAGES[language].literal(value) == code


@given(st.text())
@pytest.mark.parametrize("language", ["c#", "f#", "scala", "typescript"])
def test_text_with_the_escapes_of_json(language: str, text: str) -> None:
    assert json.loads(LANGUAGES[language].string(text)) == text


@given(st.text(alphabet=st.characters() | st.sampled_from("'\u2018\u2019\u201a\u201b")))
def test_text_of_powershell(text: str) -> None:
    literal = r"'((?:[^'\u2018-\u201b]|'')*)'|\[char\]0x([0-9a-f]{4})"
    code = LANGUAGES["powershell"].string(text)
    assert re.fullmatch(rf"(?:{literal})|\((?:{literal})(?: \+ (?:{literal}))+\)", code)
    units = [
        plain.replace("''", "'") if not unit else chr(int(unit, 16))
        for plain, unit in re.findall(literal, code)
    ]
    assert (
        "".join(units).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") == text
    )


@given(st.text())
def test_text_of_matlab(text: str) -> None:
    literal = r'"((?:[^"\r\n]|"")*)"|char\((\d+)\)'
    code = LANGUAGES["matlab"].string(text)
    assert re.fullmatch(rf"(?:{literal})|\((?:{literal})(?: \+ (?:{literal}))+\)", code)
    units = [
        plain.replace('""', '"') if not unit else chr(int(unit))
        for plain, unit in re.findall(literal, code)
    ]
    assert (
        "".join(units).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") == text
    )


@settings(max_examples=20)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_text_of_bash(texts: list[str]) -> None:
    literals = " ".join(map(LANGUAGES["bash"].string, texts))
    assert literals.isascii()
    assert literals.isprintable()
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {literals}"], stdout=subprocess.PIPE)
    assert done.stdout.decode().split("\0")[:-1] == (texts or [""])


@pytest.mark.parametrize(
    ("parameters", "language", "reason"),
    [
        ({"a b": 1}, "python", "'a b' is not a valid name"),
        ({"a\n": 1}, "python", "is not a valid name"),
        ({"1a": 1}, "python", "is not a valid name"),
        ({"a;b": 1}, "R", "is not a valid name"),
        ({"lambda": 1}, "python", "'lambda' is not a valid name"),
        (
            {"a": b"bytes"},
            "python",
            "parameter 'a' in python: values of type bytes are not supported",
        ),
        ({"a": [object()]}, "julia", "values of type object are not supported"),
        ({"a": {1: 2}}, "python", "must be strings, not 1"),
        ({"a": 10**5000}, "python", "4300 digits"),
        ({"if": 1}, "R", "'if' is not a valid name"),
        ({"_a": 1}, "R", "'_a' is not a valid name"),
        ({"a": 2**53 + 1}, "R", "R cannot represent 9007199254740993 exactly: pass it as text"),
        ({"a": 2**53 + 1}, "typescript", "JavaScript cannot represent 9007199254740993"),
        ({"a": "\0"}, "R", "text in R cannot contain a NUL character"),
        ({"a": "\ud800"}, "R", "text in R must be valid Unicode"),
        ({"a": {"": 1}}, "R", "the names of a list in R must not be empty"),
        ({"a": "\ud800"}, "julia", "text in Julia must be valid Unicode"),
        ({"True": 1}, "powershell", "'True' is not a valid name"),
        ({"a": {"k": 1, "K": 2}}, "powershell", "must differ in more than case"),
        ({"a" * 64: 1}, "matlab", "is not a valid name"),
        ({"a": [[1]]}, "bash", "an array of bash cannot contain a list or dict"),
        ({"a": {"k": {}}}, "bash", "an array of bash cannot contain a list or dict"),
        ({"a": {"": 1}}, "bash", "the keys of an array in bash must not be empty"),
        ({"a": "\0"}, "bash", "cannot contain a NUL character"),
        ({"a": "\udcff"}, "bash", "text in bash must be valid Unicode"),
    ],
)
def test_unsupported_names_and_values_are_refused(parameters, language, reason) -> None:
    with pytest.raises(InvalidParameter, match=reason):
        parameters_source(parameters, language)
