"""Writes names and values in the languages of kernels. Pure.

A value is JSON, nan or infinity. Each language writes the value as a literal that the language
reads back as the same value, and refuses other values. Text becomes a literal in one line. No
character of the text can end the literal, so the text is never read as code.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import ClassVar, cast

from kernelproto.exceptions import InvalidParameter
from kernelproto.notebook import reserved_words
from kernelproto.notebook.literals import (
    concatenated,
    escaped_bytes,
    quoted_code_points,
    quoted_utf_16,
)

_DOUBLES = range(-(2**53), 2**53 + 1)  # the integers that a double represents
_INT_32 = range(-(2**31), 2**31)
_INT_64 = range(-(2**63), 2**63)


class Language:
    """The syntax of a language; the attributes suit most languages.

    Attributes:
        title: the name in errors.
        comment: begins a comment.
        name: the names of variables.
        reserved: names that no variable may have.
        assignment: an assignment, of a name and a literal.
        none, true, false, nan, infinity: the literals of these values.
        minus_infinity: the literal of -infinity; "" if a sign before the literal of infinity
            suffices.
        array: makes a list of the items.
        mapping: makes a dict of the pairs.
        pair: a pair, of a key and a literal.
        separator: separates items and pairs.
        exact_integers: whether an integer literal has any size; False if the language reads a
            double.
        big_integer: makes an integer of more than 64 bits of the digits. Literals above 32 bits
            then have the suffix L. "" if the language has one form of literal.
    """

    title: ClassVar[str]
    comment: ClassVar[str] = "#"
    name: ClassVar[re.Pattern[str]] = re.compile(r"[^\W\d]\w*", re.ASCII)
    reserved: ClassVar[frozenset[str]] = frozenset()
    assignment: ClassVar[str] = "{} = {}"
    none: ClassVar[str] = "null"
    true: ClassVar[str] = "true"
    false: ClassVar[str] = "false"
    nan: ClassVar[str]
    infinity: ClassVar[str]
    minus_infinity: ClassVar[str] = ""
    array: ClassVar[str] = "[{}]"
    mapping: ClassVar[str]
    pair: ClassVar[str] = "{}: {}"
    separator: ClassVar[str] = ", "
    exact_integers: ClassVar[bool] = True
    big_integer: ClassVar[str] = ""

    def assign(self, name: str, value: object) -> str:
        """Return the code that assigns a value to a variable.

        Raises:
            InvalidParameter: the name is not valid, or the language cannot represent the value.
        """
        if not self.name.fullmatch(name) or name in self.reserved:
            raise InvalidParameter(f"{name!r} is not a valid name")
        return self.assignment.format(name, self.literal(value))

    def literal(self, value: object) -> str:
        """Return a value as code; see ``assign`` for the errors."""
        match value:
            case None:
                return self.none
            case bool():
                return self.true if value else self.false
            case int():
                return self.integer(int(value))
            case float():
                return self.number(float(value))
            case str():
                return self.string(str(value))
            case list() | tuple():
                return self.items(cast("Sequence[object]", value))
            case dict():
                return self.pairs(_with_text_keys(cast("dict[object, object]", value)))
            case _:
                raise InvalidParameter(f"values of type {type(value).__name__} are not supported")

    def integer(self, value: int) -> str:
        """Return an integer as code."""
        if not self.exact_integers and value not in _DOUBLES:
            raise InvalidParameter(
                f"{self.title} cannot represent {_digits(value)} exactly: pass it as text"
            )
        if not self.big_integer or value in _INT_32:
            return _digits(value)
        return f"{_digits(value)}L" if value in _INT_64 else self.big_integer.format(_digits(value))

    def number(self, value: float) -> str:
        """Return a float as code."""
        if math.isnan(value):
            return self.nan
        if math.isinf(value):
            return self.infinity if value > 0 else self.minus_infinity or f"-{self.infinity}"
        return repr(value)

    def string(self, text: str) -> str:
        """Return text as code; by default between double quotes with JSON's escapes."""
        return quoted_utf_16(text)

    def items(self, values: Sequence[object]) -> str:
        """Return a list as code."""
        return self.array.format(self.separator.join(map(self.literal, values)))

    def pairs(self, values: Mapping[str, object]) -> str:
        """Return a dict as code."""
        return self.mapping.format(self.separator.join(starmap(self.item, values.items())))

    def item(self, key: str, value: object) -> str:
        """Return a pair of a dict as code."""
        return self.pair.format(self.string(key), self.literal(value))


class _Python(Language):
    title = "Python"
    reserved = frozenset(keyword.kwlist)
    none, true, false, nan, infinity = "None", "True", "False", "float('nan')", "float('inf')"
    mapping = "{{{}}}"

    def string(self, text: str) -> str:
        return repr(text)


class _R(Language):
    title = "R"
    name = re.compile(r"[A-Za-z][\w.]*", re.ASCII)
    reserved = reserved_words.R
    assignment = "{} <- {}"
    none, true, false, nan, infinity = "NULL", "TRUE", "FALSE", "NaN", "Inf"
    array = mapping = "list({})"
    pair = "{} = {}"
    exact_integers = False

    def string(self, text: str) -> str:
        if "\0" in text:
            raise InvalidParameter("text in R cannot contain a NUL character")
        return quoted_code_points(text, self.title)

    def item(self, key: str, value: object) -> str:
        if not key:
            raise InvalidParameter("the names of a list in R must not be empty")
        return super().item(key, value)


class _Julia(Language):
    title = "Julia"
    reserved = reserved_words.JULIA
    none, nan, infinity = "nothing", "NaN", "Inf"
    mapping = "Dict({})"
    pair = "{} => {}"

    def string(self, text: str) -> str:
        return quoted_code_points(text, self.title).replace("$", "\\$")

    def items(self, values: Sequence[object]) -> str:
        kinds = {type(value) for value in values} & {bool, int, float}
        # Otherwise Julia converts all of them to one type, true to 1.
        return ("Any" if len(kinds) > 1 else "") + super().items(values)


class _JavaScript(Language):
    title = "JavaScript"
    comment = "//"
    reserved = reserved_words.JAVASCRIPT
    assignment = "var {} = {};"
    nan, infinity = "NaN", "Infinity"
    mapping = "{{{}}}"
    exact_integers = False

    def item(self, key: str, value: object) -> str:
        if key == "__proto__":  # without brackets: the prototype of the object
            return f"[{self.string(key)}]: {self.literal(value)}"
        return super().item(key, value)


class _Scala(Language):
    title = "Scala"
    comment = "//"
    reserved = reserved_words.SCALA
    assignment = "val {} = {}"
    none, nan, infinity = "None", "Double.NaN", "Double.PositiveInfinity"
    minus_infinity = "Double.NegativeInfinity"
    array, mapping, pair = "Seq({})", "Map({})", "{} -> {}"
    big_integer = 'BigInt("{}")'


class _CSharp(Language):
    title = "C#"
    comment = "//"
    reserved = reserved_words.C_SHARP
    assignment = "var {} = {};"
    nan, infinity = "double.NaN", "double.PositiveInfinity"
    minus_infinity = "double.NegativeInfinity"
    mapping = "new System.Collections.Generic.Dictionary<string, object> {{ {} }}"
    pair = "{{ {}, {} }}"
    big_integer = 'System.Numerics.BigInteger.Parse("{}")'

    def assign(self, name: str, value: object) -> str:
        code = super().assign(name, value)
        # null has no type of its own.
        return code.replace("var", "object", 1) if value is None else code

    def items(self, values: Sequence[object]) -> str:
        kind = "" if _is_uniform(values) else " object"
        return f"new{kind}[] {{ {self.separator.join(map(self.literal, values))} }}"


class _FSharp(Language):
    title = "F#"
    comment = "//"
    reserved = reserved_words.F_SHARP
    assignment = "let {} = {}"
    none, nan, infinity = "None", "nan", "infinity"
    array = "[ {} ]"
    separator = "; "
    big_integer = "{}I"

    def items(self, values: Sequence[object]) -> str:
        if _is_uniform(values):
            return super().items(values)
        return self.array.format(self.separator.join(map(self._boxed, values)))

    def pairs(self, values: Mapping[str, object]) -> str:
        pairs = (f"({self.string(key)}, {self._boxed(value)})" for key, value in values.items())
        return f"Map.ofList<string, obj> [ {self.separator.join(pairs)} ]"

    def _boxed(self, value: object) -> str:
        return f"box ({self.literal(value)})"


class _PowerShell(Language):
    title = "PowerShell"
    reserved = frozenset({"_", "true", "false", "null", "this", "input", "args", "error"})
    assignment = "${} = {}"
    none, true, false = "$null", "$true", "$false"
    nan, infinity = "[double]::NaN", "[double]::PositiveInfinity"
    minus_infinity = "[double]::NegativeInfinity"
    array, mapping, pair = "@({})", "@{{ {} }}", "{} = {}"

    def assign(self, name: str, value: object) -> str:
        if name.lower() in self.reserved:  # names have no case
            raise InvalidParameter(f"{name!r} is not a valid name")
        return super().assign(name, value)

    def integer(self, value: int) -> str:
        return _digits(value) if value in _INT_64 else f"[bigint]::Parse('{_digits(value)}')"

    def string(self, text: str) -> str:
        # Each of these quotes ends a string between apostrophes.
        return concatenated(
            text,
            lambda plain: "'" + plain.replace("'", "''") + "'",
            "[char]0x{:04x}".format,
            special="\u2018\u2019\u201a\u201b",
        )

    def items(self, values: Sequence[object]) -> str:
        # The comma keeps a list that is the only item.
        return f"@(,{self.literal(values[0])})" if len(values) == 1 else super().items(values)

    def pairs(self, values: Mapping[str, object]) -> str:
        if len({key.lower() for key in values}) < len(values):
            raise InvalidParameter("the keys of a dict in PowerShell must differ in more than case")
        return super().pairs(values)


class _Matlab(Language):
    title = "MATLAB"
    comment = "%"
    name = re.compile(r"[A-Za-z]\w{0,62}", re.ASCII)
    reserved = reserved_words.MATLAB
    assignment = "{} = {};"
    none, nan, infinity = "[]", "NaN", "Inf"
    array = "{{{}}}"
    exact_integers = False

    def string(self, text: str) -> str:
        return concatenated(
            text, lambda plain: '"' + plain.replace('"', '""') + '"', "char({})".format
        )

    def pairs(self, values: Mapping[str, object]) -> str:
        if not values:
            return "containers.Map()"
        keys = self.separator.join(f"char({self.string(key)})" for key in values)
        return f"containers.Map({{{keys}}}, {self.items(list(values.values()))})"


class _Bash(Language):
    title = "bash"
    assignment = "{}={}"
    none, nan, infinity = "''", "nan", "inf"
    array = "({})"
    pair = "[{}]={}"
    separator = " "

    def assign(self, name: str, value: object) -> str:
        code = super().assign(name, value)
        # A variable of another type would not become an associative array.
        return f"unset -v {name}; declare -A {code}" if isinstance(value, dict) else code

    def string(self, text: str) -> str:
        """Return text between apostrophes, or with escapes.

        A kernel types the code into a terminal, where a control character is a key: so none is
        left, and no byte that depends on the locale.
        """
        if re.fullmatch(r"[ -&(-~]*", text):
            return f"'{text}'"
        if "\0" in text:
            raise InvalidParameter("a variable of bash cannot contain a NUL character")
        # History expansion takes an escaped quote for the end of the text, and then expands "!".
        return "$'{}'".format(escaped_bytes(text, self.title, special="'!\\"))

    def items(self, values: Sequence[object]) -> str:
        self._check_flat(values)
        return super().items(values)

    def pairs(self, values: Mapping[str, object]) -> str:
        if "" in values:
            raise InvalidParameter("the keys of an array in bash must not be empty")
        self._check_flat(list(values.values()))
        return self.array.format(self.separator.join(starmap(self.item, values.items())))

    def _check_flat(self, values: Sequence[object]) -> None:
        if any(isinstance(value, list | tuple | dict) for value in values):
            raise InvalidParameter("an array of bash cannot contain a list or dict")


def _with_text_keys(values: Mapping[object, object]) -> dict[str, object]:
    for key in values:
        if not isinstance(key, str):
            raise InvalidParameter(f"keys of dicts must be strings, not {key!r}")
    return cast("dict[str, object]", values)


def _is_uniform(values: Sequence[object]) -> bool:
    """Return whether values are of one type in C# and F#, which both infer the type."""
    kinds = {type(value) for value in values}
    return kinds in ({str}, {bool}, {float}) or (
        kinds == {int} and all(value in _INT_32 for value in values)
    )


def _digits(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError as error:  # thousands of digits
        raise InvalidParameter(str(error)) from None


# By the name of the language in a kernel's reply or in a notebook, in lower case.
LANGUAGES: Mapping[str, Language] = {
    "bash": _Bash(),
    "c#": _CSharp(),
    "csharp": _CSharp(),
    "f#": _FSharp(),
    "fsharp": _FSharp(),
    "javascript": _JavaScript(),
    "julia": _Julia(),
    "matlab": _Matlab(),
    "powershell": _PowerShell(),
    "pwsh": _PowerShell(),
    "python": _Python(),
    "r": _R(),
    "scala": _Scala(),
    "sparkr": _R(),
    "typescript": _JavaScript(),
}
