"""Words that are no names of variables, by language. Pure."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


R = _words(
    "if else repeat while function for next break in TRUE FALSE NULL Inf NaN NA NA_integer_ "
    "NA_real_ NA_character_ NA_complex_"
)
JULIA = _words(
    "baremodule begin break catch const continue do else elseif end export false finally for "
    "function global if import let local macro module quote return struct true try using "
    "while"
)
JAVASCRIPT = _words(
    "await break case catch class const continue debugger default delete do else enum export "
    "extends false finally for function if implements import in instanceof interface let new "
    "null package private protected public return static super switch this throw true try "
    "typeof var void while with yield"
)
SCALA = _words(
    "abstract case catch class def do else enum export extends false final finally for given "
    "if implicit import lazy macro match new null object override package private protected "
    "return sealed super then this throw trait try true type val var while with yield _"
)
C_SHARP = _words(
    "abstract as base bool break byte case catch char checked class const continue decimal "
    "default delegate do double else enum event explicit extern false finally fixed float for "
    "foreach goto if implicit in int interface internal is lock long namespace new null object "
    "operator out override params private protected public readonly ref return sbyte sealed "
    "short sizeof stackalloc static string struct switch this throw true try typeof uint ulong "
    "unchecked unsafe ushort using virtual void volatile while"
)
F_SHARP = _words(
    "abstract and as asr assert base begin class default delegate do done downcast downto elif "
    "else end exception extern false finally fixed for fun function global if in inherit "
    "inline interface internal land lazy let lor lsl lsr lxor match member mod module mutable "
    "namespace new null of open or override private public rec return select sig static struct "
    "then to true try type upcast use val void when while with yield _"
)
MATLAB = _words(
    "break case catch classdef continue else elseif end for function global if otherwise "
    "parfor persistent return spmd switch try while"
)
