"""Finds the parameters of a notebook in the cell tagged ``parameters``. Pure: executes nothing."""

from __future__ import annotations

import ast
import difflib
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kernelproto.exceptions import InvalidParameter
from kernelproto.notebook.nodes import Node
from kernelproto.notebook.parameters import DEFAULTS, tagged

# The syntax that IPython adds to Python: magics, shell commands and questions.
_NOT_PYTHON = re.compile(r"^[ \t]*[%!?].*|^.*\?[ \t]*$", re.MULTILINE)

# In any language: `x = 1`, `x <- 1`, `x: Int = 1`, `$x = 1`; but not `x == 1`, `a.x = 1`.
_ASSIGNMENT = re.compile(r"(?<![\w.])\$?([^\W\d][\w.]*)\s*(?::[^=\n]+)?(?:<-|=(?![=>]))", re.ASCII)

_TYPE_COMMENT = re.compile(r"type:\s*(\S+)\s*(.*)")

# The errors of the parser; the last two are for code that is nested too deeply.
_UNREADABLE = (SyntaxError, ValueError, MemoryError, RecursionError)

# An error names no more parameters than these.
_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a notebook.

    Attributes:
        name: the name.
        type: the annotation or type comment, or the type of a literal default; "" if unknown.
        default: the code of the default value.
        comment: the comment after the default, or else the comments on the lines before.
    """

    name: str
    type: str
    default: str
    comment: str


def inspect_parameters(nb: Node) -> list[Parameter]:
    """Return the parameters that the cell tagged ``parameters`` assigns, without an execution.

    Args:
        nb: the notebook.

    Raises:
        InvalidParameter: the notebook has no such cell, or the code in the cell is not valid
            Python.
    """
    source = _defaults(nb)
    if source is None:
        raise InvalidParameter(f'no cell is tagged "{DEFAULTS}"')
    language = _language(nb)
    if language.lower() not in ("python", "ipython"):
        raise InvalidParameter(f"parameters can be described only in Python, not in {language}")
    try:
        return list(_parameters(_python(source)))
    except (*_UNREADABLE, tokenize.TokenError) as error:
        reason = str(error) or type(error).__name__
        raise InvalidParameter(
            f'the cell tagged "{DEFAULTS}" is not valid Python: {reason}'
        ) from None


def unknown_parameters(nb: Node, names: Iterable[str]) -> str | None:
    """Return a sentence about names that the cell tagged ``parameters`` does not assign.

    Args:
        nb: the notebook.
        names: the names of parameters.

    Returns:
        None if the cell assigns all of them.
    """
    names = list(names)
    if not names:
        return None
    source = _defaults(nb)
    if source is None:
        return f'no cell is tagged "{DEFAULTS}", so the parameters cannot be checked'
    known = _assigned(source)
    unknown = [name for name in names if name not in known]
    if not unknown:
        return None
    near = difflib.get_close_matches(unknown[0], known, 1)
    return (
        f'the cell tagged "{DEFAULTS}" does not assign {_listed(unknown)}'
        f"{f' (did you mean {near[0]}?)' if near else ''}; it assigns {_listed(known)}"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return (", ".join(names[:_SHOWN_NAMES]) or "nothing") + (
        f" and {more} more" if more > 0 else ""
    )


def _defaults(nb: Node) -> str | None:
    cell = tagged(nb["cells"], DEFAULTS)
    return None if cell is None else str(nb["cells"][cell]["source"])


def _language(nb: Node) -> str:
    metadata = nb["metadata"]
    return str(
        metadata.get("language_info", {}).get("name")
        or metadata.get("kernelspec", {}).get("language")
        or "python"
    )


def _python(source: str) -> str:
    """Return the code with empty lines for those that are not Python."""
    return _NOT_PYTHON.sub("", source)


def _assigned(source: str) -> Sequence[str]:
    """Return the names that code assigns, in order, each once."""
    try:
        tree = ast.parse(_python(source))
    except _UNREADABLE:  # another language, for example
        found = _ASSIGNMENT.findall(source)
    else:
        found = [
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
    return list(dict.fromkeys(found))


def _parameters(source: str) -> Iterator[Parameter]:
    comments = _Comments(source)
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=targets, value=value):
                pairs = [pair for target in targets for pair in _pairs(target, value)]
                annotation = ""
            case ast.AnnAssign(target=ast.Name() as target, value=ast.expr() as value):
                pairs = [(target.id, value)]
                annotation = ast.unparse(statement.annotation)
            case _:
                continue
        comment = comments.of(statement)
        if typed := _TYPE_COMMENT.fullmatch(comment):
            annotation, comment = annotation or typed[1], typed[2].removeprefix("#").strip()
        for name, default in pairs:
            yield Parameter(
                name=name,
                type=annotation or _type(default),
                default=ast.get_source_segment(source, default) or "",
                comment=comment,
            )


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that an assignment binds, with their values."""
    match target, value:
        case ast.Name(id=name), _:
            yield name, value
        case (
            (ast.Tuple(elts=names) | ast.List(elts=names)),
            (ast.Tuple(elts=values) | ast.List(elts=values)),
        ) if len(names) == len(values):
            for inner, part in zip(names, values, strict=True):
                yield from _pairs(inner, part)
        case _:
            pass


def _type(value: ast.expr) -> str:
    try:
        literal = ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ""
    return type(literal).__name__


class _Comments:
    """The comments of Python code, by line."""

    def __init__(self, source: str) -> None:
        self._after: dict[int, str] = {}
        self._alone: dict[int, str] = {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                before = token.line[: token.start[1]]
                lines = self._after if before.strip() else self._alone
                lines[token.start[0]] = token.string.lstrip("#").strip()

    def of(self, statement: ast.stmt) -> str:
        """Return the comment of a statement."""
        if after := self._after.get(statement.end_lineno or statement.lineno):
            return after
        above: list[str] = []
        line = statement.lineno - 1
        while line in self._alone:
            above.insert(0, self._alone[line])
            line -= 1
        return " ".join(above)
